"""HELMET's category averages per length, each with its coverage.

A column is a number only if every dataset and metric behind it is complete; otherwise it says how
many of them are. Averages are unweighted means of dataset scores, as HELMET and the RRAttention
release compute them; nothing missing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd
from tabulate import tabulate

from rr_bench.report.identity import Identity
from rr_bench.report.load import natural
from rr_bench.report.style import length_label
from rr_bench.store.stored import StoredCell
from rr_bench.tasks.helmet_table import (
    DATASETS,
    GENERATED_COLUMN,
    HELMET_COLUMNS,
    RR_COLUMNS,
    UNJUDGED_COLUMNS,
    Column,
    generated,
)

AVERAGES = (Column("Avg. (RR)", ()), Column("Avg. (HELMET)", ()))
SETUP = ("setup", "method")
COLUMNS = (
    *SETUP,
    "model",
    "length",
    "column",
    "value",
    "have",
    "of",
    "samples",
    "missing",
)
"""Columns of ``categories.csv``; ``length`` 0 is the mean over all lengths of the table."""

Point = tuple[str, str]


@dataclass(frozen=True)
class Value:
    """One printed number, or how much of it there is.

    Attributes:
        value: percent; None if incomplete.
        have: complete parts.
        of: parts it needs.
        missing: names of the others.
    """

    value: float | None
    have: int
    of: int
    missing: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One decimal, or ``k/n``."""
        return f"{self.have}/{self.of}" if self.value is None else f"{self.value:.1f}"


def applies(cells: Iterable[StoredCell]) -> bool:
    """Whether a store holds anything of HELMET's."""
    return any(cell.info.source == "helmet" and cell.info.task in DATASETS for cell in cells)


def points(cells: Sequence[StoredCell]) -> dict[Point, float]:
    """(dataset, metric) to percent, of the complete cells of one method at one length.

    A cell with failed samples is not complete: its mean would be over other rows than HELMET's.
    """
    found: dict[Point, float] = {}
    for cell in cells:
        scores = cell.columns.score[cell.columns.scored].tolist()
        if cell.done is None or _failed(cell) or not scores or cell.info.task not in DATASETS:
            continue
        dataset = DATASETS[cell.info.task]
        metric = dataset.metric if cell.info.source == "helmet" else generated(dataset.metric)
        found[dataset.name, metric] = 100 * sum(scores) / len(scores)
        for metric, judged in (cell.judged or {}).items():
            if set(judged["uids"]) == set(cell.scored):
                found[dataset.name, metric] = 100 * float(judged["value"])
    return found


def _failed(cell: StoredCell) -> int:
    return len(cell.samples) - len(cell.scored)


def column_value(column: Column, found: Mapping[Point, float]) -> Value:
    """A column's average if all of its members are there."""
    missing = tuple(
        f"{name} {metric}" for name, metric in column.members if (name, metric) not in found
    )
    count = len(column.members)
    if missing:
        return Value(None, count - len(missing), count, missing)
    return Value(sum(found[member] for member in column.members) / count, count, count)


def mean_of(named: Mapping[str, Value]) -> Value:
    """The unweighted mean of columns, or of lengths, if all are numbers."""
    values = [one.value for one in named.values() if one.value is not None]
    missing = tuple(name for name, one in named.items() if one.value is None)
    if missing or not values:
        return Value(None, len(values), len(named), missing)
    return Value(sum(values) / len(values), len(values), len(named))


def all_columns(found: Mapping[Point, float], drawn: bool = False) -> dict[str, Value]:
    """Every column at one length, the two averages last; ``drawn`` adds that of generated Recall."""
    own = {column.name: column_value(column, found) for column in (*RR_COLUMNS, *HELMET_COLUMNS)}
    averages = {
        average.name: mean_of({column.name: own[column.name] for column in columns})
        for average, columns in zip(AVERAGES, (RR_COLUMNS, HELMET_COLUMNS), strict=True)
    }
    more = (*UNJUDGED_COLUMNS, *([GENERATED_COLUMN] if drawn else []))
    others = {column.name: column_value(column, found) for column in more}
    return {**own, **averages, **others}


def shown_here(cell: StoredCell) -> bool:
    """Whether a cell counts in some column: HELMET's own rows, and generated ones of Recall."""
    dataset = DATASETS.get(cell.info.task)
    return dataset is not None and (cell.info.source == "helmet" or dataset.category == "recall")


def category_frame(cells: Sequence[StoredCell]) -> pd.DataFrame:
    """One row per model, method, length and column, :data:`COLUMNS`.

    Args:
        cells: current cells of a store. Where HELMET's rows and generated Recall were run together, the
            latter have a column of their own and are part of no average.
    """
    identity = Identity(cells)
    groups: dict[tuple[str, str], dict[int, list[StoredCell]]] = {}
    models: dict[str, str] = {}
    for cell in cells:
        if shown_here(cell):
            columns = identity.columns(cell)
            models[columns["setup"]] = columns["model"]
            where = columns["setup"], columns["series"]
            groups.setdefault(where, {}).setdefault(cell.info.length, []).append(cell)
    groups = {where: found for where, found in groups.items() if applies(chain(*found.values()))}
    drawn = any(c.info.source != "helmet" for found in groups.values() for c in chain(*found.values()))
    rows = []
    for (setup, method), lengths in groups.items():
        by_length = {n: all_columns(points(lengths[n]), drawn) for n in sorted(lengths)}
        for name in next(iter(by_length.values())):
            over = {length_label(n): columns[name] for n, columns in by_length.items()}
            shown = {n: columns[name] for n, columns in by_length.items()} | {0: mean_of(over)}
            for length, value in shown.items():
                counts = [len(c.samples) for c in lengths.get(length, [])]
                rows.append(
                    {
                        "setup": setup,
                        "method": method,
                        "model": models[setup],
                        "length": length,
                        "column": name,
                        "value": value.value,
                        "have": value.have,
                        "of": value.of,
                        "samples": sum(counts),
                        "missing": "; ".join(value.missing),
                    }
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def category_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns side by side, numbers or ``k/n`` as text; one row per model, method and length."""
    names = list(dict.fromkeys(frame["column"]))
    lines = []
    for where, rows in frame.groupby([*SETUP, "length"], sort=False):
        setting = dict(zip(SETUP, map(str, where), strict=False))
        length = int(rows["length"].iloc[0])
        cells = {
            row["column"]: f"{row['have']}/{row['of']}"
            if pd.isna(row["value"])
            else f"{row['value']:.1f}"
            for _, row in rows.iterrows()
        }
        label = length_label(length) if length else "mean"
        order = (setting["setup"], natural(setting["method"]), length or 2**40)
        lines.append((order, {**setting, "length": label, **{name: cells[name] for name in names}}))
    lines.sort(key=lambda one: one[0])
    return pd.DataFrame([line for _, line in lines])


def category_text(table: pd.DataFrame, style: str = "simple") -> str:
    """The table for a terminal or a Markdown page."""
    constant = [name for name in SETUP if name != "method" and table[name].nunique() < 2]
    shown = table.drop(columns=constant)
    return tabulate(shown, headers="keys", tablefmt=style, showindex=False, disable_numparse=True)


def data_notes(cells: Iterable[StoredCell]) -> list[str]:
    """What failed, and what was lost, dropped or odd in the data, once per task and length."""
    lines: dict[str, None] = {}
    for cell in cells:
        if cell.info.source != "helmet" and shown_here(cell):
            where = f"{cell.info.task} {length_label(cell.info.length)}"
            lines[f"{where}: generated rows, not HELMET's: in {GENERATED_COLUMN.name} only"] = None
        if cell.info.source != "helmet" or cell.info.task not in DATASETS:
            continue
        official = DATASETS[cell.info.task].rows
        if cell.done is not None and len(cell.samples) < official:
            rows = f"{len(cell.samples)} of HELMET's {official} rows"
            lines[f"{cell.info.task} {length_label(cell.info.length)}: {rows}"] = None
        data, where = cell.data or {}, f"{cell.info.task} {length_label(cell.info.length)}"
        if failed := _failed(cell):
            of = f"{failed} of {len(cell.samples)} samples failed"
            lines[f"{where}, {cell.info.method['label']}: {of}; incomplete until they are scored"] = (
                None
            )
        lost = data.get("gold_lost", {}).get("count", 0)
        if lost:
            lines[f"{where}: the gold evidence of {lost} samples was cut off"] = None
        for kind in ("dropped", "flagged"):
            for why, found in data.get(kind, {}).items():
                first = ", ".join(found["first"][:3])
                lines[f"{where}: {found['count']} rows {kind} ({why}): {first}"] = None
        fields = data.get("unknown_fields")
        if fields:
            counted = ", ".join(f"{name} ({count})" for name, count in fields.items())
            lines[f"{where}: rows have fields of no known layout: {counted}"] = None
    return list(lines)
