"""Hashes of what a number depends on: the project's own source, a model folder, a data file.

Nothing is imported and no weights are loaded, so a finished run is recognised in moments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rr_bench import ROOT, TASKS

WHOLE_LIMIT = 64 * 2**20
"""Weights of up to this many bytes in all are hashed whole."""

_SAMPLES, _SAMPLE_BYTES = 64, 64 * 2**10
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SETTINGS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab")


@cache
def sources_hash() -> str:
    """One SHA-256 of the project's own source and task files: provenance, not identity."""
    folders = (ROOT / "method", ROOT / "rr_bench", TASKS)
    files = [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".py", ".yaml") and path.is_file()
    ]
    return tree_hash({path.relative_to(ROOT).as_posix(): file_hash(path) for path in files})


def tree_hash(sources: Mapping[str, str]) -> str:
    """One SHA-256 for a set of files, of their names and hashes."""
    lines = "".join(f"{sources[name]}  {name}\n" for name in sorted(sources))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a whole file, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_fingerprint(path: str | Path) -> str:
    """SHA-256 over a local Hugging Face model folder: configuration, tokenizer, weights.

    Weights of up to 64 MiB in all are read whole. Larger ones count by size and 64 pieces of
    64 KiB spread evenly over each file (the header is in the first): two fine-tunes of one
    architecture differ there, though not in sizes or headers, and 16 GB cost a fraction of a second.

    Raises:
        FileNotFoundError: no such folder, or it holds no weights or no ``config.json``.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"model.path={folder}: no folder with a config.json; name a local model folder"
        )
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")
    )
    weights = [file for file in files if file.suffix in _WEIGHTS]
    if not weights:
        raise FileNotFoundError(
            f"model.path={folder}: no weights ({', '.join(_WEIGHTS)}) in the folder"
        )
    whole = sum(file.stat().st_size for file in weights) <= WHOLE_LIMIT
    parts = {}
    for file in files:
        if file.suffix in _SETTINGS or (file in weights and whole):
            parts[file.name] = file_hash(file)
        elif file in weights:
            parts[file.name] = sampled_hash(file)
    return tree_hash(parts)


def sampled_hash(path: Path) -> str:
    """SHA-256 of a file's size and of evenly spaced pieces, first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * piece // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
