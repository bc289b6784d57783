"""HELMET's columns as recovery: over the datasets that a method and dense attention both have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from rr_bench.report.categories import shown_here
from rr_bench.report.load import natural
from rr_bench.report.recovery import Recovery, pooled
from rr_bench.report.style import length_label
from rr_bench.report.table import Column, Table, best_caption
from rr_bench.report.tables import Summary
from rr_bench.store.cells import SHORT
from rr_bench.tasks.helmet_table import (
    DATASETS,
    GENERATED_COLUMN,
    HELMET_COLUMNS,
    RR_COLUMNS,
    generated,
)
from rr_bench.tasks.helmet_table import Column as HelmetColumn

EVERY = "all"
"""The column of all datasets."""

COLUMNS = {
    "setup": Column("model and the settings that its cells share"),
    "length": Column("tokens"),
    "column": Column("HELMET's column; all: every dataset that there is"),
    "method": Column("method with its settings"),
    "recovery": Column(
        "mean of the datasets' scores / that of dense attention on the same samples x 100 "
        "(95 % interval, samples drawn within datasets)",
        1,
        ("recovery_lo", "recovery_hi"),
    ),
    "recovery_lo": Column("lower end of the interval", 1),
    "recovery_hi": Column("upper end of the interval", 1),
    "density": Column("computed share of the causal blocks, mean over the datasets, %", 1),
    "datasets": Column("datasets behind the row, of how many the column has"),
    "n": Column("samples of these datasets"),
}

Place = tuple[str, str, int, str]
"""Setup, method, length and column."""


class Found(NamedTuple):
    """A column's recovery; ``have`` of its ``of`` datasets are behind it, all equal in weight."""

    recovery: Recovery
    density: float
    have: int
    of: int


def column_recoveries(summary: Summary) -> dict[Place, Found]:
    """Recovery of every column that has a dataset, in reading order.

    A metric that a judge gives has no score per sample, so columns of such metrics are not there.
    """
    there = {cell.info.key[:SHORT] for cell in summary.cells if shown_here(cell)}
    rows = summary.frame[summary.frame["cell"].isin(there & summary.pairs.keys())]
    found = {}
    groups = rows.groupby(["setup", "series", "length"], sort=False)
    for (setup, series, _), own in groups:
        for name, of, tasks in _columns(own):
            pairs = [summary.pairs[cell] for cell in own["cell"][tasks]]
            density = float(own["density"][tasks].mean())
            found[str(setup), str(series), int(own["length"].iloc[0]), name] = Found(
                pooled(pairs), density, len(pairs), of
            )
    order = [*(column.name for column in _all_columns()), EVERY]
    return dict(sorted(found.items(), key=lambda one: _reading(one[0], order)))


def _reading(place: Place, order: list[str]) -> tuple[object, ...]:
    setup, series, length, name = place
    return setup, length, order.index(name), natural(series)


def _all_columns() -> list[HelmetColumn]:
    """The columns of both tables, each name once."""
    named = {column.name: column for column in (*RR_COLUMNS, *HELMET_COLUMNS, GENERATED_COLUMN)}
    return list(named.values())


def _columns(own: pd.DataFrame) -> Iterator[tuple[str, int, pd.Series]]:
    """Name of a column, how many datasets it has, and which rows are its."""
    metrics = {
        task: DATASETS[task].metric if source == "helmet" else generated(DATASETS[task].metric)
        for task, source in zip(own["task"], own["source"], strict=True)
    }
    for column in _all_columns():
        tasks = own["task"].map(lambda task, of=column: (task, metrics[task]) in of.members)
        judged = any(metric in DATASETS[name].judged for name, metric in column.members)
        if tasks.any() and not judged:
            yield column.name, len(column.members), tasks
    yield EVERY, len(own), own["task"].notna()


def recovery_table(found: Mapping[Place, Found]) -> Table:
    """``helmet_recovery``: a row per length, column and method, the best where intervals allow."""
    rows = [
        {
            "setup": setup,
            "length": length_label(length),
            "column": name,
            "method": series,
            "recovery": one.recovery.value,
            "recovery_lo": one.recovery.lo,
            "recovery_hi": one.recovery.hi,
            "density": one.density,
            "datasets": f"{one.have}/{one.of}" if name != EVERY else f"{one.have}",
            "n": one.recovery.n,
        }
        for (setup, series, length, name), one in found.items()
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    names = [name for name in COLUMNS if name != "setup" or frame["setup"].nunique() > 1]
    marked = best_places(found)
    best = {(number, "recovery") for number, place in enumerate(found) if place in marked}
    return Table(
        "helmet_recovery", "HELMET, recovery by column", frame[names],
        {name: COLUMNS[name] for name in names}, best_caption(best), frozenset(best),
    )  # fmt: skip


def best_places(found: Mapping[Place, Found]) -> set[Place]:
    """Of every column at a length the method whose interval lies above those of all others.

    Only methods with all of the column's datasets count; of ``all``, those with as many as any.
    """
    groups: dict[tuple[str, int, str], list[Place]] = {}
    for place in found:
        groups.setdefault((place[0], place[2], place[3]), []).append(place)
    best = set()
    for places in groups.values():
        most = max(max(found[one].have, found[one].of) for one in places)
        whole = [one for one in places if found[one].have == most]
        if len(whole) > 1:
            first = max(whole, key=lambda one: found[one].recovery.value)
            rest = [found[one].recovery.hi for one in whole if one != first]
            if all(found[first].recovery.lo > end for end in rest):
                best.add(first)
    return best
