"""The project's own source, read and not imported: for the tests of its structure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from rr_bench import ROOT

PACKAGES = ("method", "rr_bench")


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
