"""What can be known about a model without loading it: its folder, dtype and length limit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr_bench import CONF, ROOT
from rr_bench.plan.errors import CheckpointError
from rr_bench.plan.families import FULL, LEARNED_POSITIONS, native_positions, unsupported
from rr_bench.plan.gguf import converted, find_gguf, origin
from rr_bench.store.redact import stored_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DTYPES = ("float32", "bfloat16", "float16")
ORIGINAL = "original_max_position_embeddings"

MODEL_VERSION = 1
"""Of :mod:`rr_bench.model`, whose docstring says what it covers. It stands here because a plan is made
before that package is needed."""

VISION_VERSION = 1
"""Of :mod:`rr_bench.model.vision`: patches, token layouts, positions, grading and decoding."""


@dataclass(frozen=True)
class Device:
    """Where the model runs.

    Attributes:
        kind: torch's device string, ``cpu`` or ``cuda``.
        name: the card's name; what explains a result, not what identifies it.
        capability: compute capability of a CUDA device, such as "9.0".
    """

    kind: str
    name: str
    capability: str | None = None


def resolve_path(path: str) -> Path:
    """Find a checkpoint folder: a directory, one inside this project, a GGUF file, or a hub id.

    Args:
        path: the setting ``model.path``. A relative path is looked up from the working directory,
            then from the project; ``owner/name`` goes to the Hugging Face cache or hub. A GGUF file,
            or a folder that holds one, is unpacked first (:mod:`rr_bench.plan.gguf`).

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
        file = find_gguf(candidate)
        if file is not None:
            return converted(file)
        if candidate.is_dir():
            if not (candidate / "config.json").is_file():
                raise CheckpointError(
                    f"model.path={path}: {candidate} has no config.json and no .gguf file"
                )
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
        "no such file or directory. Give a Hugging Face checkpoint folder (config.json, safetensors, "
        "tokenizer), a .gguf file or a hub id like owner/name"
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

    Raises:
        CheckpointError: the file cannot be read, the model is of a kind that cannot run here, or has
            no RoPE to lay anything over.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"model.path={path}: config.json cannot be read: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("text_config") or {}, dict):
        raise CheckpointError(f"model.path={path}: config.json holds no settings")
    whole = config.get("model_type")
    if not isinstance(whole, str):
        raise CheckpointError(f"model.path={path}: config.json names no model_type")
    config = {**config, **(config.get("text_config") or {}), "whole_type": whole}
    reason = unsupported(config)
    if reason is not None:
        raise CheckpointError(f"model.path={path}: {config.get('model_type', 'the model')} {reason}")
    if rope is not None:
        own = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if config.get("model_type") in LEARNED_POSITIONS:
            own = None
        config["rope_parameters"] = lay_rope(own, rope, native_positions(config))
    return config


def lay_rope(own: Mapping[str, Any] | None, rope: Mapping[str, Any], positions: int | None) -> Any:
    """RoPE settings with the user's laid over the checkpoint's.

    A model with settings per layer type (Gemma 3) gets them for its full-attention layers: the
    windowed ones never look further than their window.

    Args:
        own: the checkpoint's ``rope_parameters``; ``None`` for a model without RoPE.
        rope: the setting ``model.rope``.
        positions: the checkpoint's own positions, which a stretching starts from unless ``rope`` says
            otherwise.

    Raises:
        CheckpointError: there is nothing the settings would have an effect on.
    """
    if own is None:
        raise CheckpointError("model.rope is set, but the model has no rotary positions: leave it out")
    if "factor" in rope and positions is not None:
        rope = {ORIGINAL: positions, **rope}
    nested = any(isinstance(value, Mapping) for value in own.values())
    if not nested:
        return {**own, **rope}
    if not isinstance(own.get(FULL), Mapping):
        raise CheckpointError(
            f"model.rope is set, but the model's own settings are for {', '.join(own)} and not for "
            f"{FULL}: leave it out"
        )
    return {**own, FULL: {**own[FULL], **rope}}


def resolve_dtype(dtype: str, config: dict[str, Any], device: Device) -> str:
    """Turn ``auto`` into the checkpoint's dtype on a GPU, and float32 on a CPU."""
    if dtype == "auto" and device.kind == "cpu":
        return "float32"
    if dtype == "auto":
        dtype = str(config.get("dtype") or config.get("torch_dtype"))
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype={dtype}: choose one of {', '.join(DTYPES)}")
    return dtype


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens the model was made for; ``None`` if the config is silent.

    That is its own number of positions, unless the RoPE settings name what they stretch
    (``original_max_position_embeddings``) and that is no less: then the number leaves the stretching
    out, as in Qwen2.5 with YaRN, and the factor multiplies it. In Llama 3.1 or Phi-3.5 it is in.
    """
    limit = native_positions(config)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get(FULL, rope) or {}
    original, factor = rope.get(ORIGINAL) or config.get(ORIGINAL), rope.get("factor")
    if limit is None or original is None or factor is None or int(original) < limit:
        return limit
    return max(limit, int(original * float(factor)))


def check_length(length: int, config: Mapping[str, Any], allow_extrapolation: bool) -> None:
    """Refuse a length beyond what the model was made for, unless told otherwise.

    A table of learned positions cannot be left, whatever ``allow_extrapolation`` says.
    """
    limit = max_positions(config)
    if limit is None or length <= limit:
        return
    if config.get("model_type") in LEARNED_POSITIONS:
        raise CheckpointError(
            f"lengths={length} is beyond the {limit} learned positions of {config['model_type']}, and "
            "there are no others: leave it out"
        )
    if not allow_extrapolation:
        raise CheckpointError(
            f"lengths={length} is beyond the model's {limit} positions (max_position_embeddings); "
            "leave it out, or set model.allow_extrapolation=true to run it all the same"
        )


def model_names(given: str, path: Path, fingerprint: str) -> tuple[str, str]:
    """Name in tables, path in records: hub id, path in the repository, or a folder's name and hash."""
    if HUB_ID.fullmatch(given) and path.parent.name == "snapshots":
        return given.rpartition("/")[2], given
    if (file := origin(path)) is not None:
        return Path(file.file).stem, f"{file.file}@{fingerprint[:12]}"
    stored = stored_path(path)
    return path.name, stored if "/" in stored else f"{stored}@{fingerprint[:12]}"
