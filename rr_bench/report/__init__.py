"""Tables, figures and a page from stored results alone; needs no torch.

``python -m rr_bench.report <out>`` rebuilds everything.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rr_bench.report.drawing import Album
from rr_bench.report.figures import draw_figures
from rr_bench.report.headline import score_tables
from rr_bench.report.held_mass import draw_held_mass, held_mass_tables
from rr_bench.report.helmet import write_helmet
from rr_bench.report.latency import read_latency
from rr_bench.report.latency_figures import draw_latency_figures
from rr_bench.report.latency_page import to_markdown as to_latency_markdown
from rr_bench.report.latency_page import to_text as to_latency_text
from rr_bench.report.latency_tables import speed_tables
from rr_bench.report.layers import draw_layers
from rr_bench.report.page import write_page
from rr_bench.report.page.content import Page, joined, summary_page, with_figures
from rr_bench.report.page.latency import latency_page
from rr_bench.report.pooling import rows_of_figures
from rr_bench.report.render import notes_text, select, to_csv, to_markdown, to_text
from rr_bench.report.table import tabulated
from rr_bench.report.tables import COLUMNS, summarise
from rr_bench.report.verdict import MARGIN
from rr_bench.report.video_mme_figure import draw_video_mme
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
        formats = "PNG and PDF" if any(path.suffix == ".pdf" for path in self.paths) else "PNG"
        return lines + [f"{folder}: {n} figures, {formats}" for folder, n in counts.items()]


def write_report(
    out: str | Path,
    keys: Collection[str] | None = None,
    margin: float = MARGIN,
    pdf: bool = True,
    page: bool = True,
) -> Report:
    """Write tables, ``figures/`` and ``report.html`` under ``out``: of its cells, of its
    ``latency.csv``, or of both.

    Args:
        out: folder of a store or of a latency experiment, and of the report.
        keys: keys of the cells to print, None for all; the files always hold the whole store.
        margin: points around 100 % within which a recovery counts as kept.
        pdf: whether figures are written as PDF too, which takes most of the time.
        page: whether ``report.html`` is written.

    Raises:
        StoreError: there is neither a store nor a ``latency.csv`` at ``out``.
    """
    folder = Path(out)
    timed = (folder / "latency.csv").is_file()
    album = Album(folder / "figures", pdf, svg=page)
    parts = [] if timed and not is_store(folder) else [_store_part(folder, keys, album, margin)]
    parts += [_latency_part(folder, album)] if timed else []
    pages = [part.page for part in parts if part.page is not None]
    paths = [path for part in parts for path in part.paths]
    if pages:
        paths.append(write_page(with_figures(reduce(joined, pages), album.pictures.items()), folder))
    texts = [part.text for part in parts if part.text]
    problems = [problem for part in parts for problem in part.problems]
    return Report([*paths, *album.paths], "\n\n".join(texts), problems, parts[0].frame)


class _Part(NamedTuple):
    """One half of a report: its tables' files, what a terminal shows, its problems, rows and page."""

    paths: list[Path]
    text: str
    problems: list[str]
    frame: pd.DataFrame
    page: Page | None


def _store_part(folder: Path, keys: Collection[str] | None, album: Album, margin: float) -> _Part:
    cells, unreadable = read_store(folder)
    summary = summarise(cells, unreadable, margin)
    paths = [folder / "summary.csv", folder / "summary.md"]
    for path, text in zip(paths, (to_csv(summary.frame), to_markdown(summary)), strict=True):
        path.write_text(text, encoding="utf-8")
    diagnosed = held_mass_tables(summary.cells)
    tables = [*score_tables(summary), *diagnosed]
    paths += [path for table in tables for path in table.write(folder / "tables")]
    draw_figures(rows_of_figures(summary), album)
    draw_layers(summary.frame, summary.cells, album)
    draw_video_mme(summary.cells, album)
    draw_held_mass(summary.cells, album)
    helmet = write_helmet(summary, folder, album)
    texts = [notes_text([*summary.notes, *helmet.notes]), to_text(summary, keys), helmet.text]
    texts += [f"{table.title}\n{tabulated(table.text(), 'simple')}" for table in diagnosed]
    page = None
    if album.svg:
        page = summary_page(summary, folder, helmet.table, helmet.notes, helmet.papers)
    frame = select(summary.frame, keys)
    text = "\n\n".join(filter(None, texts))
    return _Part([*paths, *helmet.paths], text, list(summary.problems), frame, page)


def _latency_part(folder: Path, album: Album) -> _Part:
    nothing = pd.DataFrame(columns=list(COLUMNS))
    try:
        latency = read_latency(folder)
    except StoreError as error:
        return _Part([], "", [str(error)], nothing, None)
    path = folder / "latency.md"
    path.write_text(to_latency_markdown(latency), encoding="utf-8")
    tables = [file for table in speed_tables(latency) for file in table.write(folder / "tables")]
    draw_latency_figures(latency, album)
    page = latency_page(latency, folder) if album.svg else None
    return _Part([path, *tables], to_latency_text(latency), [], nothing, page)
