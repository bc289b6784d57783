"""Tables and figures from the store alone; needs no torch.

``python -m rr_bench.report <out>`` rebuilds everything.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rr_bench.report.figures import write_figures
from rr_bench.report.helmet import write_helmet
from rr_bench.report.load import load_cells
from rr_bench.report.render import select, to_csv, to_markdown, to_text
from rr_bench.report.tables import summarise


class Report(NamedTuple):
    """What a report wrote.

    Attributes:
        paths: the files, tables first.
        table: the summary for a terminal, notes included.
        problems: comparisons refused and cells left out; empty if the report is whole.
        frame: the rows of ``summary.csv``, those of ``keys`` if they were given.
    """

    paths: list[Path]
    table: str
    problems: list[str]
    frame: pd.DataFrame


def write_report(out: str | Path, keys: Collection[str] | None = None) -> Report:
    """Write ``summary.csv``, ``summary.md`` and ``figures/`` under ``out`` from its cells.

    Args:
        out: folder of a store, and of the report.
        keys: keys of the cells to print, None for all; the files always hold the whole store.

    Raises:
        StoreError: there is no store at ``out``.
    """
    folder = Path(out)
    cells, unreadable = load_cells(folder)
    summary = summarise(cells, unreadable)
    paths = [folder / "summary.csv", folder / "summary.md"]
    for path, text in zip(paths, (to_csv(summary.frame), to_markdown(summary)), strict=True):
        path.write_text(text, encoding="utf-8")
    paths += write_figures(summary.frame, folder / "figures")
    helmet = write_helmet(summary.cells, folder)
    table = "\n\n".join(filter(None, (to_text(summary, keys), helmet.text)))
    frame = select(summary.frame, keys)
    return Report(paths + helmet.paths, table, summary.problems, frame)
