"""Tables and figures from stored results alone; needs no torch.

``python -m rr_bench.report <out>`` rebuilds everything.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rr_bench.report import latency_page
from rr_bench.report.figures import write_figures
from rr_bench.report.helmet import write_helmet
from rr_bench.report.latency import read_latency
from rr_bench.report.latency_figures import write_latency_figures
from rr_bench.report.render import notes_text, select, to_csv, to_markdown, to_text
from rr_bench.report.tables import COLUMNS, summarise
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import is_store, read_store


class Report(NamedTuple):
    """What a report wrote.

    Attributes:
        paths: the files, tables first.
        table: what a terminal shows: notes, the verdict, the tables.
        problems: comparisons refused and cells left out; empty if the report is whole.
        frame: the rows of ``summary.csv``, those of ``keys`` if they were given.
    """

    paths: list[Path]
    table: str
    problems: list[str]
    frame: pd.DataFrame

    @property
    def written(self) -> list[str]:
        """Lines that name the files, the figures by their folder."""
        lines = [str(path) for path in self.paths if path.suffix not in (".png", ".pdf")]
        figures = [path for path in self.paths if path.suffix == ".png"]
        folders = dict.fromkeys(path.parent for path in figures)
        counts = {folder: sum(path.parent == folder for path in figures) for folder in folders}
        return lines + [f"{folder}: {n} figures, PNG and PDF" for folder, n in counts.items()]


def write_report(out: str | Path, keys: Collection[str] | None = None) -> Report:
    """Write tables and ``figures/`` under ``out``: of its cells, of its ``latency.csv``, or of both.

    Args:
        out: folder of a store or of a latency experiment, and of the report.
        keys: keys of the cells to print, None for all; the files always hold the whole store.

    Raises:
        StoreError: there is neither a store nor a ``latency.csv`` at ``out``.
    """
    folder = Path(out)
    latency = _latency_report(folder)
    if latency is not None and not is_store(folder):
        return latency
    cells, unreadable = read_store(folder)
    summary = summarise(cells, unreadable)
    paths = [folder / "summary.csv", folder / "summary.md"]
    for path, text in zip(paths, (to_csv(summary.frame), to_markdown(summary)), strict=True):
        path.write_text(text, encoding="utf-8")
    paths += write_figures(summary.frame, folder / "figures")
    helmet = write_helmet(summary.cells, folder)
    notes = notes_text([*summary.notes, *helmet.notes])
    tables, problems = [notes, to_text(summary, keys), helmet.text], list(summary.problems)
    paths += helmet.paths
    if latency is not None:
        paths += latency.paths
        tables.append(latency.table)
        problems += latency.problems
    frame = select(summary.frame, keys)
    return Report(paths, "\n\n".join(filter(None, tables)), problems, frame)


def _latency_report(folder: Path) -> Report | None:
    """``latency.md`` and the figures of a ``latency.csv``, if there is one; no rows of a summary."""
    if not (folder / "latency.csv").is_file():
        return None
    nothing = pd.DataFrame(columns=list(COLUMNS))
    try:
        latency = read_latency(folder)
    except StoreError as error:
        return Report([], "", [str(error)], nothing)
    page = folder / "latency.md"
    page.write_text(latency_page.to_markdown(latency), encoding="utf-8")
    paths = [page, *write_latency_figures(latency, folder / "figures")]
    return Report(paths, latency_page.to_text(latency), [], nothing)
