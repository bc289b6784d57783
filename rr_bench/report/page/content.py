"""What a page says, taken from a summary: nothing here is computed that a table does not hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from rr_bench.report.environment import commands, environment_values
from rr_bench.report.page.samples import sample_data
from rr_bench.report.tables import Summary
from rr_bench.store.cells import SHORT
from rr_bench.store.reading import FROZEN_CELLS
from rr_bench.store.redact import redact

MOST_ROWS = 1_000
"""Rows of a table; further ones stand in the file that it links."""

UNDEFINED = "–"
_NUMBER = re.compile(r"[<>]?\s*-?\d")


@dataclass(frozen=True)
class Row:
    """A row as text; ``cell`` is the short key of the cell behind it, if it is one cell's."""

    texts: tuple[str, ...]
    cell: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table; ``more`` rows were left to the file ``link``."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    more: int = 0
    link: str = ""

    @cached_property
    def left(self) -> list[bool]:
        """Which columns hold words, not numbers."""
        texts = zip(*(row.texts for row in self.rows), strict=True)
        return [
            not all(_NUMBER.match(text) or text == UNDEFINED for text in column) for column in texts
        ]


@dataclass(frozen=True)
class PageFigure:
    """A figure as SVG."""

    name: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Page:
    """All that the template names."""

    title: str
    subtitle: str
    verdict: Sequence[str]
    tables: Sequence[PageTable]
    figures: Sequence[PageFigure] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    terms: Sequence[Markup] = ()
    environment: Iterable[tuple[str, list[str]]] = ()
    commands: Sequence[str] = ()
    samples: Markup = field(default=Markup(""))


def page_table(
    title: str, frame: pd.DataFrame, cells: Sequence[str] = (), link: str = "summary.csv"
) -> PageTable:
    """A table of text columns.

    Args:
        title: what it shows.
        frame: the columns, each value as it is printed.
        cells: short keys of the cells behind the rows, where a row is a cell.
        link: the file that holds all rows, beside the page.
    """
    texts = [tuple(map(str, row)) for row in frame.head(MOST_ROWS).itertuples(index=False)]
    keys = list(cells)[:MOST_ROWS] or [""] * len(texts)
    verdicts = frame["verdict"].head(MOST_ROWS) if "verdict" in frame else [""] * len(texts)
    rows = [
        Row(text, "" if pd.isna(key) else key, str(verdict))
        for text, key, verdict in zip(texts, keys, verdicts, strict=True)
    ]
    return PageTable(title, tuple(map(str, frame.columns)), rows, len(frame) - len(rows), link)


def samples_json(summary: Summary, folder: Path) -> Markup:
    """The samples as JSON that may stand inside a script element; empty without any."""
    by_key = {cell.info.key[:SHORT]: cell for cell in summary.cells}
    ordered = [by_key[key] for key in summary.frame["cell"].dropna() if key in by_key]
    if not any(cell.samples for cell in ordered):
        return Markup("")
    data = sample_data(ordered, (folder / FROZEN_CELLS).is_file())
    return script_json(data.plain)


def script_json(value: Any) -> Markup:
    """JSON without any character that could end the element around it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def terms(definitions: str) -> list[Markup]:
    """A Markdown list of definitions as HTML: its bold words and nothing else."""
    items = [" ".join(item.split()) for item in re.split(r"^- ", definitions, flags=re.MULTILINE)]
    return [Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(item)))) for item in items if item]


def subtitle(summary: Summary, folder: Path) -> str:
    """How much is behind the page, and the folder's own name."""
    samples = sum(len(cell.samples) for cell in summary.cells)
    return f"{len(summary.cells):,} cells, {samples:,} samples, {folder.resolve().name}"


def environment(summary: Summary) -> dict[str, Any]:
    """What was said of the machine, the notes, and the commands."""
    records = [cell.env for cell in summary.cells]
    return {
        "environment": list(environment_values(records).items()),
        "commands": commands(records),
        "problems": [redact(line) for line in summary.problems],
        "notes": [redact(line) for line in summary.notes],
    }
