"""Files and functions stay small enough to read in one go; kernels may be longer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file.relative_to(ROOT)
    for folder in ("method", "rr_bench")
    for file in (ROOT / folder).rglob("*.py")
    if "ops" not in file.relative_to(ROOT / folder).parts
)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_and_functions_are_short(file: Path):
    text = (ROOT / file).read_text()
    assert len(text.splitlines()) <= 300
    long = {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 >= 60
    }
    assert long == set()
