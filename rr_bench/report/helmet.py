"""HELMET's part of a report: categories with coverage, what the data lost, published figures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rr_bench.report.categories import (
    applies,
    category_frame,
    category_table,
    category_text,
    data_notes,
)
from rr_bench.report.category_bars import draw_category_figures
from rr_bench.report.drawing import Album
from rr_bench.report.helmet_tables import helmet_tables
from rr_bench.report.paper import paper_lines
from rr_bench.report.table import Table
from rr_bench.report.tables import Summary
from rr_bench.store.jsonl import StoreError, read_json

LEGEND = """\
- A number is the unweighted mean over a category's datasets, printed only if all of them are complete;
  **k/n** is how many are. Nothing missing is skipped, in no average.
- **Avg. (RR)**: mean of Recall, RAG, ICL, Cite, Re-rank and LongQA-2, as the RRAttention release does.
  **LongQA-2** leaves out NarrativeQA. **Avg. (HELMET)**: HELMET's seven columns.
- **Cite** needs an NLI judge, **LongQA** and **Summ** a GPT judge (`python -m rr_bench.judge`).
  **cite_correctness**, **longqa_rouge** and **summ_rouge** are what can be said without one; they are
  other quantities and comparable with nothing published.
- Row **mean**: over the lengths of this table.
"""


class HelmetReport(NamedTuple):
    """What was written and what is shown; empty if the store holds nothing of HELMET's.

    Attributes:
        paths: the tables' files.
        text: what a terminal shows.
        notes: what to know of the data.
        table: the categories as text columns.
        papers: the papers' tables and recovery by column.
    """

    paths: list[Path]
    text: str
    notes: list[str]
    table: pd.DataFrame
    papers: list[Table]


def write_helmet(summary: Summary, folder: Path, album: Album) -> HelmetReport:
    """Write ``categories.csv``, ``categories.md``, the papers' tables and the figure of a store.

    Args:
        summary: of its current cells.
        folder: the store.
        album: takes the figure.
    """
    cells = summary.cells
    if not applies(cells):
        return HelmetReport([], "", [], pd.DataFrame(), [])
    frame = category_frame(cells)
    table = category_table(frame)
    notes = data_notes(cells) + unplanned(folder)
    paths = [folder / "categories.csv", folder / "categories.md"]
    frame.to_csv(paths[0], index=False, lineterminator="\n")
    parts = ["# HELMET categories", "", category_text(table, "github"), "", LEGEND]
    published = paper_lines(frame)
    if published:
        parts += ["## Published averages", "", *published, ""]
    if notes:
        parts += ["## Data", "", *(f"- {note}" for note in notes), ""]
    paths[1].write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    papers = helmet_tables(frame, summary)
    paths += [path for one in papers for path in one.write(folder / "tables")]
    draw_category_figures(frame, album)
    lines = ["HELMET categories (k/n: incomplete)", category_text(table)]
    return HelmetReport(paths, "\n".join(lines), notes, table, papers)


def unplanned(folder: Path) -> list[str]:
    """What the last run could not plan, such as a missing file."""
    path = folder / "problems.json"
    if not path.is_file():
        return []
    lines = read_json(path).get("problems")
    if not isinstance(lines, list):
        raise StoreError(f"{path}: expected a list of problems; delete the file")
    return [f"not run: {line}" for line in lines]
