"""The committed results: tables and figures are those of their records, and README shows them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from rr_bench.report import write_report
from tests.source import ROOT

RESULTS = ROOT / "results"
SOURCES = ("cells.jsonl", "samples.jsonl.gz", "latency.csv", "env.json")
FOLDERS = sorted(
    {path.parent for name in ("cells.jsonl", "latency.csv") for path in RESULTS.rglob(name)}
    - {path.parent for path in (RESULTS / "runs").rglob("*")}
)
PIXELS = 20
"""Pixels that may differ, as another machine rounds a line's end."""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_tables_and_figures_are_those_of_the_records(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / folder.name
    out.mkdir()
    for name in SOURCES:
        if (folder / name).is_file():
            shutil.copy(folder / name, out / name)
    write_report(out, pdf=False, page=False)
    made = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    there = {Path(one) for one in ("summary.csv", "summary.md", "latency.md", "categories.csv")}
    there = {one for one in there if (folder / one).is_file()}
    there |= {path.relative_to(folder) for path in (folder / "figures").glob("*.png")}
    there |= {path.relative_to(folder) for path in (folder / "tables").glob("*")}
    assert there <= made and {one for one in made if len(one.parts) == 2} <= there, "run `make figures`"
    for name in sorted(there):
        assert _same(out / name, folder / name), f"{name} is stale: run `make figures`"


def _same(new: Path, old: Path) -> bool:
    """Equal bytes; or numbers but for rounding, pictures but for a few pixels."""
    if new.read_bytes() == old.read_bytes():
        return True
    if new.suffix == ".csv":
        pd.testing.assert_frame_equal(pd.read_csv(new), pd.read_csv(old), rtol=1e-9)
        return True
    if new.suffix != ".png":
        return False
    pictures = imread(new), imread(old)
    if pictures[0].shape != pictures[1].shape:
        return False
    return int((np.abs(pictures[0] - pictures[1]).max(axis=2) > 0.1).sum()) <= PIXELS


def test_pictures_of_the_pages_are_there() -> None:
    pages = [ROOT / "README.md", *RESULTS.rglob("README.md")]
    picture = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
    shown = [(page, name) for page in pages for name in picture.findall(page.read_text())]
    assert shown and all((page.parent / name).is_file() for page, name in shown)
