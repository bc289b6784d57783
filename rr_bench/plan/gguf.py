"""GGUF files as models: unpacked once into an ordinary checkpoint folder, in a cache of their own.

transformers reads the weights (``from_pretrained(gguf_file=...)``) and unpacks them to bfloat16; the
tokenizer and the special tokens come from the file's own ``tokenizer.ggml`` fields
(:mod:`rr_bench.plan.gguf_tokenizer`). The folder is named by the file's SHA-256, appears in one step
when it is complete, and is used again by every later run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rr_bench.plan.errors import CheckpointError
from rr_bench.store.fingerprint import file_hash

MAGIC = b"GGUF"
SUFFIX = ".gguf"
FORMAT = 1
"""Of a converted folder; raised when the conversion changes, so that old folders are left alone."""

ORIGIN = "gguf_origin.json"
TOKENIZER_CHECK = ("  12 it's\n\n  It'S 1234\tx", "e\u0301 \r\n漢字 <|im_end|></s>")
"""Texts in which the rules of splitting differ."""


@dataclass(frozen=True)
class Origin:
    """The file that a converted folder was made from.

    Attributes:
        file: its name, without a folder.
        sha256: its hash, which is the model's fingerprint.
    """

    file: str
    sha256: str


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that ``path`` is or holds; ``None`` if it is something else.

    Raises:
        CheckpointError: a folder without ``config.json`` holds several, or a file is no GGUF file.
    """
    if path.is_file():
        _check_magic(path)
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"model.path={path} holds several GGUF files, name one of {names}")
    if files:
        _check_magic(files[0])
    return files[0] if files else None


def converted(file: Path) -> Path:
    """The checkpoint folder of a GGUF file, made now if there is none yet.

    Raises:
        CheckpointError: the file is damaged or of a kind that cannot be read, the package ``gguf`` is
            missing, or the cache cannot be written.
    """
    cache = cache_folder()
    try:
        sha256 = _remembered_hash(file, cache)
        target = cache / f"{sha256}-bf16-v{FORMAT}"
        if (target / ORIGIN).is_file():
            return target
        if find_spec("gguf") is None:
            raise CheckpointError(
                f"model.path={file}: reading a GGUF file needs the package gguf: pip install "
                "'rr-bench[gguf]'"
            )
        print(f"unpacking {file.name}, once, to {target}", file=sys.stderr, flush=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{sha256[:12]}-", dir=cache))
        try:
            _convert(file, temporary)
            _write_json(temporary / ORIGIN, asdict(Origin(file.name, sha256)))
            if not (target / ORIGIN).is_file():  # another process may have been faster
                os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"model.path={file}: the cache {cache} cannot be written ({error}); set RR_BENCH_CACHE to "
            "another folder"
        ) from error
    return target


def origin(folder: Path) -> Origin | None:
    """The GGUF file that a checkpoint folder was converted from; ``None`` for any other folder."""
    try:
        return Origin(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def cache_folder() -> Path:
    """Where converted files lie: ``RR_BENCH_CACHE``, else ``~/.cache/rr_bench/converted``."""
    told = os.environ.get("RR_BENCH_CACHE")
    try:
        return Path(told or "~/.cache/rr_bench/converted").expanduser().resolve()
    except RuntimeError as error:
        raise CheckpointError(
            "there is no home directory for unpacked GGUF files: set RR_BENCH_CACHE to a folder"
        ) from error


def _check_magic(file: Path) -> None:
    with file.open("rb") as stream:
        genuine = stream.read(len(MAGIC)) == MAGIC
    if not genuine:
        raise CheckpointError(
            f"model.path={file} is no GGUF file (it does not begin with {MAGIC.decode()}): give a "
            f"checkpoint folder or a {SUFFIX} file"
        )
    if file.suffix != SUFFIX:
        raise CheckpointError(f"model.path={file} is a GGUF file by content: rename it to *{SUFFIX}")


def _remembered_hash(file: Path, cache: Path) -> str:
    """The file's SHA-256; of a file that has not changed, as it was noted last time."""
    state = file.stat()
    known = f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"
    note = cache / "hashes" / hashlib.sha256(known.encode()).hexdigest()
    if note.is_file():
        return note.read_text(encoding="ascii")
    sha256 = file_hash(file)
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{os.getpid()}")
    partial.write_text(sha256, encoding="ascii")
    partial.replace(note)
    return sha256


def _convert(file: Path, folder: Path) -> None:
    """Write weights, configs and tokenizer of ``file`` as a checkpoint folder."""
    # Imported here because a converted file needs none of it.
    from transformers import AutoTokenizer, GenerationConfig

    from rr_bench.plan.gguf_tokenizer import TokenizerError, build_tokenizer, stop_token_ids

    fields = _read_fields(file)
    try:
        tokenizer = build_tokenizer(fields, file)
    except TokenizerError as error:
        raise CheckpointError(f"model.path={file}: {error}") from error
    model = _load_weights(file)
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({**ids, "eos_token_id": tokenizer.eos_token_id})
    model.generation_config = GenerationConfig(**ids, eos_token_id=stop_token_ids(fields))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    if any(again(text).input_ids != tokenizer(text).input_ids for text in TOKENIZER_CHECK):
        raise CheckpointError(
            f"model.path={file}: transformers reads its tokenizer back differently (as "
            f"{type(again).__name__}): take the publisher's safetensors"
        )


def _load_weights(file: Path) -> Any:
    """The model in bfloat16, as one that transformers agrees to save."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, output_loading_info=True
        )
    except (ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"model.path={file} does not load: {reason}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(f"model.path={file} lacks weights of the model ({missing}, ...)")
    # It still counts as quantised, and as such could not be saved.
    for name, owner in (("hf_quantizer", model), ("quantization_config", model.config)):
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized = False
    return model


def _read_fields(file: Path) -> Mapping[str, Any]:
    """All metadata of the file.

    Raises:
        CheckpointError: the file ends early or is damaged, is one part of several, or stretches its
            RoPE, which transformers would silently leave out.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"model.path={file} is damaged or cut short ({error}): fetch it again and compare "
            "its SHA-256"
        ) from error
    if int(fields.get("split.count") or 1) > 1:
        raise CheckpointError(
            f"model.path={file} is one of {fields['split.count']} parts: join them with llama.cpp's "
            "gguf-split first"
        )
    scaled = fields.get(f"{fields.get('general.architecture')}.rope.scaling.type") not in (None, "none")
    if scaled or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise CheckpointError(
            f"model.path={file} stretches its RoPE, which transformers does not read from a GGUF file: "
            "take the publisher's safetensors"
        )
    return fields


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
