"""The lm-eval YAML files as plain mappings; nothing they name is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Function:
    """A ``!function`` reference that is not followed."""

    function: str


class _Loader(yaml.SafeLoader):
    """Plain YAML plus lm-eval's ``!function`` tag."""


_Loader.add_constructor("!function", lambda loader, node: Function(str(node.value)))


def read_definition(path: Path) -> dict[str, Any]:
    """One YAML file; what it includes is not read.

    Raises:
        ValueError: the file cannot be read, or is no mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping")
    return content
