"""What can be known about a model without loading it: its folder, dtype and length limit.

No torch here: a run whose cells are all finished decides so from these facts in a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr_bench import CONF, ROOT

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DTYPES = ("float32", "bfloat16", "float16")
STRETCHING = ("yarn", "linear", "dynamic", "longrope")


class CheckpointError(ValueError):
    """The model's settings do not fit what is on disk or on this machine."""


@dataclass(frozen=True)
class Device:
    """Where the model runs: torch's device string and the name its results are filed under."""

    kind: str
    name: str


def resolve_path(path: str) -> Path:
    """Find a checkpoint folder: a directory, one inside this project, or a hub id.

    Args:
        path: the setting ``model.path``. A relative path is looked up from the working directory,
            then from the project; ``owner/name`` goes to the Hugging Face cache or hub.

    Raises:
        CheckpointError: nothing usable is there.
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"model.path={path}: there is no home directory; give a whole path, or set RR_BENCH_MODELS "
            "to the folder of the named models"
        ) from error
    for candidate in (given, ROOT / path):
        if candidate.is_dir():
            if not (candidate / "config.json").is_file():
                raise CheckpointError(f"model.path={path}: {candidate} has no config.json")
            return candidate.resolve()
    if HUB_ID.fullmatch(path):
        return _download(path)
    raise CheckpointError(f"model.path={path}: {how_to_get(path)}")


def how_to_get(path: str) -> str:
    """What to do about a checkpoint that is not there; ``<name>.gguf`` of a named model is fetched."""
    name = Path(path).stem
    if path.endswith(".gguf") and (CONF / "model" / f"{name}.yaml").is_file():
        return f"no such file. `python -m rr_bench.download model {name}` puts it there"
    return (
        "no such directory. Give a Hugging Face checkpoint folder (config.json, safetensors, "
        "tokenizer) or a hub id like owner/name"
    )


def _download(repo: str) -> Path:
    """Fetch a hub checkpoint, or find it in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"model.path={repo}: no such directory, and the hub did not give it "
            f"({type(error).__name__})"
        ) from error


def read_config(path: Path, rope: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The checkpoint's ``config.json``; of a vision-language model, its text part.

    Args:
        path: checkpoint folder.
        rope: RoPE settings laid over the checkpoint's own.
    """
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"model.path={path}: config.json cannot be read: {error}") from error
    config = {**config, **(config.get("text_config") or {})}
    if rope is not None:
        own = config.get("rope_parameters") or config.get("rope_scaling") or {}
        config["rope_parameters"] = {**own, **rope}
    return config


def resolve_dtype(dtype: str, config: dict[str, Any], device: Device) -> str:
    """Turn ``auto`` into the checkpoint's dtype on a GPU, and float32 on a CPU."""
    if dtype == "auto" and device.kind == "cpu":
        return "float32"
    if dtype == "auto":
        dtype = str(config.get("dtype") or config.get("torch_dtype"))
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype={dtype}: choose one of {', '.join(DTYPES)}")
    return dtype


def max_positions(config: dict[str, Any]) -> int | None:
    """Tokens the model was made for, RoPE stretching included; ``None`` if the config is silent."""
    limit = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if limit is None or kind not in STRETCHING:
        return limit
    original = rope.get("original_max_position_embeddings") or limit
    return max(int(limit), int(original * float(rope.get("factor") or 1.0)))


def check_length(length: int, config: dict[str, Any], allow_extrapolation: bool) -> None:
    """Refuse a length beyond what the model was made for, unless told otherwise."""
    limit = max_positions(config)
    if limit is not None and length > limit and not allow_extrapolation:
        raise CheckpointError(
            f"lengths={length} is beyond the model's {limit} positions (max_position_embeddings); "
            "leave it out, or set model.allow_extrapolation=true to run it all the same"
        )
