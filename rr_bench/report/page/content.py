"""What a page says, taken from a summary: nothing is computed here that no table holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from rr_bench.report.environment import commands, environment_values
from rr_bench.report.headline import score_tables
from rr_bench.report.page.samples import sample_data
from rr_bench.report.render import cell_table, definitions
from rr_bench.report.table import Table
from rr_bench.report.tables import Summary
from rr_bench.report.verdict import verdict
from rr_bench.store.cells import SHORT
from rr_bench.store.frozen import FROZEN_CELLS
from rr_bench.store.redact import redact

MOST_ROWS = 1_000
"""Rows of a table; further ones stand in the file that it links."""

FIGURES_ROOM = 1_500_000
"""Characters of figures; further ones are linked."""

UNDEFINED = "–"
_NUMBER = re.compile(r"[<>]?\s*-?\d")


@dataclass(frozen=True)
class Row:
    """A row as text.

    Attributes:
        texts: a text per column.
        cell: short key of the cell behind it, if it is one cell's.
        verdict: its verdict, if it has one.
        best: places of the columns that it is the best of.
    """

    texts: tuple[str, ...]
    cell: str = ""
    verdict: str = ""
    best: tuple[int, ...] = ()


@dataclass(frozen=True)
class PageTable:
    """A table; ``more`` rows were left to the file ``link``."""

    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    more: int = 0
    link: str = ""
    caption: str = ""

    @property
    def leads(self) -> bool:
        """Whether its rows lead to samples."""
        return any(row.cell for row in self.rows)

    @cached_property
    def left(self) -> list[bool]:
        """Which columns hold words, not numbers."""
        columns = zip(*(row.texts for row in self.rows), strict=True)
        found = [any(text != UNDEFINED and not _NUMBER.match(text) for text in one) for one in columns]
        return found or [True] * len(self.columns)


@dataclass(frozen=True)
class PageFigure:
    """A figure as SVG, or a ``link`` to its file where the page has no room for more."""

    name: str
    svg: Markup = field(default=Markup(""))
    link: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template names."""

    title: str
    subtitle: str
    verdict: Sequence[str]
    headline: PageTable | None = None
    tables: Sequence[PageTable] = ()
    figures: Sequence[PageFigure] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    terms: Sequence[Markup] = ()
    environment: Sequence[tuple[str, list[str]]] = ()
    commands: Sequence[str] = ()
    samples: Markup = field(default=Markup(""))


def summary_page(
    summary: Summary,
    folder: Path,
    categories: pd.DataFrame,
    notes: Sequence[str],
    papers: Sequence[Table] = (),
) -> Page:
    """The page of a store, without figures.

    Args:
        summary: the store's summary.
        folder: the store.
        categories: HELMET's categories as text columns; no columns if there are none.
        notes: what else is to be known of the data.
        papers: HELMET's columns as papers print them.
    """
    cells = cell_table(summary.frame).assign(verdict=summary.frame["verdict"].fillna(UNDEFINED))
    samples = sum(len(cell.samples) for cell in summary.cells)
    name = folder.resolve().name
    records = [cell.env for cell in summary.cells]
    tables = [own_table(table) for table in score_tables(summary)]
    found = len(tables) > 0
    tables += [own_table(table) for table in papers]
    if len(categories.columns):
        tables.append(page_table("HELMET categories", categories, link="categories.csv"))
    if len(cells):
        keys = summary.frame["cell"].fillna("").tolist()
        tables.append(page_table("Cells", cells, keys))
    return Page(
        title=" · ".join(["Score recovery", *sorted(map(str, summary.frame["model"].unique()))[:3]]),
        subtitle=f"{name}: {count(len(summary.cells), 'cell')}, {count(samples, 'sample')}",
        verdict=verdict(summary.standings),
        headline=tables[0] if found else None,
        tables=tables[found:],
        problems=[redact(line) for line in summary.problems],
        notes=[redact(line) for line in (*summary.notes, *notes)],
        terms=terms(definitions(summary.margin)),
        environment=list(environment_values(records).items()),
        commands=commands(records),
        samples=samples_json(summary, folder),
    )


def joined(first: Page, second: Page) -> Page:
    """A store's page with the latency run that lies in the same folder."""
    return replace(
        first,
        verdict=[*first.verdict, *second.verdict],
        tables=[*first.tables, *second.tables],
        notes=[*first.notes, *second.notes],
        terms=[*first.terms, *second.terms],
        commands=list(dict.fromkeys([*first.commands, *second.commands])),
    )


def with_figures(page: Page, pictures: Iterable[tuple[str, Markup]]) -> Page:
    """The page with its figures, as many as there is room for; the others as links."""
    return replace(page, figures=list(_fitting(pictures)))


def _fitting(pictures: Iterable[tuple[str, Markup]]) -> Iterator[PageFigure]:
    room = FIGURES_ROOM
    for name, svg in pictures:
        room -= len(svg)
        yield PageFigure(name, svg) if room >= 0 else PageFigure(name, link=f"figures/{name}.png")


def page_table(
    title: str, frame: pd.DataFrame, cells: Sequence[str] = (), link: str = "summary.csv"
) -> PageTable:
    """A table of text columns.

    Args:
        title: what it shows.
        frame: the columns, each value as it is printed.
        cells: short keys of the cells behind the rows, empty for a row without one.
        link: the file that holds all rows, beside the page.
    """
    shown = frame.head(MOST_ROWS)
    keys = list(cells) or [""] * len(frame)
    verdicts = shown["verdict"] if "verdict" in shown else [""] * len(shown)
    rows = [
        Row(tuple(map(str, texts)), key, str(word))
        for texts, key, word in zip(shown.itertuples(index=False), keys, verdicts, strict=False)
    ]
    return PageTable(title, tuple(map(str, frame.columns)), rows, len(frame) - len(rows), link)


def own_table(table: Table) -> PageTable:
    """A table of the report, its best marked."""
    text = table.text()
    shown = page_table(table.title, text, link=f"tables/{table.name}.csv")
    places = {str(name): place for place, name in enumerate(text)}
    rows = [
        replace(row, best=tuple(places[name] for at, name in table.best if at == number))
        for number, row in enumerate(shown.rows)
    ]
    return replace(shown, rows=rows, caption=table.caption)


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


def count(number: int, word: str) -> str:
    """A number and its noun."""
    return f"{number:,} {word}{'s'[: number != 1]}"
