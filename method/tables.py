"""Per-layer, per-head settings kept in JSON files, read with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def find_file(path: str) -> Path:
    """A file named relative to the working directory or, failing that, to the project's root."""
    given = Path(path).expanduser()
    return given if given.is_absolute() or given.exists() else ROOT / given


def read_layers(path: str, setting: str) -> list[Any]:
    """Read a JSON list with one entry per decoder layer.

    Args:
        path: the file; see :func:`find_file`.
        setting: name of the setting that gave the path, for errors.

    Raises:
        ValueError: the file cannot be read, is no JSON, or is not a list with an entry per layer.
    """
    try:
        content = json.loads(find_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{setting}={path} cannot be read: {error}") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{setting}={path} is not a JSON list with one entry per decoder layer")
    return content


def layer_entry(layers: list[Any], layer: int, path: str, setting: str) -> Any:
    """The entry of one layer; a ``ValueError`` if the file was made for a model with fewer."""
    if layer >= len(layers):
        raise ValueError(
            f"{setting}={path} has {len(layers)} layers, but layer {layer} was asked for: the file "
            "belongs to another model"
        )
    return layers[layer]
