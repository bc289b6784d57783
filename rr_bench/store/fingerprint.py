"""Hashes of what a number depends on: the project's own source, a model folder, a data file.

Nothing is imported and no weights are loaded, so a finished run is recognised in moments.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rr_bench import ROOT

PACKAGES = ("method", "rr_bench")

WHOLE_LIMIT = 64 * 2**20
"""Weights of up to this many bytes in all are hashed whole."""

_SAMPLES, _SAMPLE_BYTES = 64, 64 * 2**10
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SETTINGS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab")


def source_closure(modules: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """The source files that modules of this repository run, by their import statements.

    Follows imports transitively, inside functions too, and counts the ``__init__`` of every parent
    package. Imports of other packages are ignored: their versions are recorded instead.

    Args:
        modules: dotted names such as ``"method.rr"``.
        root: folder that holds the packages ``method`` and ``rr_bench``.

    Returns:
        ``{path relative to root: SHA-256}``, sorted by path.

    Raises:
        ModuleNotFoundError: a name in ``modules`` is no module of this repository.
    """
    pending = list(modules)
    for name in pending:
        if module_file(name, root) is None:
            raise ModuleNotFoundError(
                f"no module {name} of {' or '.join(PACKAGES)} under the repository"
            )
    files: dict[str, str] = {}
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        path = module_file(name, root)
        if name in seen or path is None:
            continue
        seen.add(name)
        pending += [name.rpartition(".")[0], *imported_names(path, name)]
        files[path.relative_to(root).as_posix()] = file_hash(path)
    return dict(sorted(files.items()))


def tree_hash(sources: Mapping[str, str]) -> str:
    """One SHA-256 for a set of files, of their names and hashes."""
    lines = "".join(f"{sources[name]}  {name}\n" for name in sorted(sources))
    return hashlib.sha256(lines.encode()).hexdigest()


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a module or package of this repository, None for anything else."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def imported_names(path: Path, module: str) -> Iterator[str]:
    """Dotted names a file imports, anywhere in it.

    ``from a import b`` yields ``a`` and ``a.b``, since ``b`` may be a module.

    Args:
        path: the source file.
        module: its dotted name, which relative imports start from.
    """
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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
            parts[file.name] = _sampled_hash(file)
    return tree_hash(parts)


def _sampled_hash(path: Path) -> str:
    """SHA-256 of a file's size and of evenly spaced pieces, first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for piece in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * piece // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
