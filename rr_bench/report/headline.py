"""The first tables of a report: every method over all its cells, and methods at equal density."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rr_bench.report import video_mme
from rr_bench.report.series import control_bases
from rr_bench.report.table import Column, Table, best_caption
from rr_bench.report.tables import Summary
from rr_bench.report.verdict import Standing

FEW = 12
"""Rows of the headline; of more, one per method is chosen."""

COLUMNS = {
    "setup": Column("model and the settings that its cells share"),
    "method": Column("method with its settings; @ a density: the settings calibrated to it"),
    "density": Column("computed share of the causal blocks, mean over the cells, %", 1),
    "score": Column("mean score over the cells, %", 1),
    "dense": Column("that of dense attention on the same samples, %", 1),
    "recovery": Column("score / dense x 100 (95 % interval)", 1, ("recovery_lo", "recovery_hi")),
    "recovery_lo": Column("lower end of the interval", 1),
    "recovery_hi": Column("upper end of the interval", 1),
    "verdict": Column("kept, gained, lost or undecided"),
    "speedup": Column(
        "dense prefill time / its, as the samples were scored at whatever load; no benchmark",
        2,
        unit="×",
    ),
    "cells": Column("cells behind the row, of how many"),
    "n": Column("samples of these cells"),
}


def score_tables(summary: Summary) -> list[Table]:
    """The headline; all methods if it left some out; recovery at equal density; Video-MME's scores."""
    found = summary.standings
    tables = [headline(found)] if found else []
    if found and len(tables[0].frame) < len(found):
        tables.append(Table("methods", *_rows(found, "All methods, mean over their cells")))
    return [*tables, *equal_density(found), *video_mme.score_tables(summary.cells)]


def headline(found: Sequence[Standing]) -> Table:
    """A few rows, the sparsest first; see :func:`chosen`."""
    few = chosen(found)
    return Table("headline", *_rows(few), caption=_caption(few, found))


def _rows(
    found: Sequence[Standing], title: str = "Methods, mean over their cells"
) -> tuple[str, pd.DataFrame, dict[str, Column]]:
    """Title, frame and columns, the sparsest method first; the setup where there are several."""
    rows = [
        {
            "setup": one.setup,
            "method": one.series,
            "density": one.density,
            "score": one.found.sparse,
            "dense": one.found.dense,
            "recovery": one.found.value,
            "recovery_lo": one.found.lo,
            "recovery_hi": one.found.hi,
            "verdict": one.outcome,
            "speedup": one.speedup,
            "cells": one.behind,
            "n": one.found.n,
        }
        for one in found
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    names = [name for name in COLUMNS if name != "setup" or frame["setup"].nunique() > 1]
    return title, frame[names], {name: COLUMNS[name] for name in names}


def chosen(found: Sequence[Standing]) -> list[Standing]:
    """What the headline shows, per setup: all, or of more than :data:`FEW` one setting of each method.

    Controls are left out then. Of a line's settings the sparsest that kept the score is shown, or the
    one of the highest recovery if none did.
    """
    shown: list[Standing] = []
    for setup in dict.fromkeys(one.setup for one in found):
        own = [one for one in found if one.setup == setup]
        if len(own) > FEW:
            bases = control_bases([one.series for one in own])
            lines: dict[str, list[Standing]] = {}
            for one in own:
                if one.series not in bases:
                    lines.setdefault(one.line, []).append(one)
            own = sorted(map(_best, lines.values()), key=lambda one: one.density)
        shown += own
    return shown


def _best(settings: Sequence[Standing]) -> Standing:
    kept = [one for one in settings if one.outcome in ("kept", "gained")]
    if kept:
        return min(kept, key=lambda one: one.density)
    return max(settings, key=lambda one: one.found.value if one.found.value == one.found.value else -1)


def _caption(shown: Sequence[Standing], found: Sequence[Standing]) -> str:
    if len(shown) == len(found):
        return ""
    return (
        f"{len(shown)} of {len(found)}: of every method the sparsest setting that kept the dense score "
        "or that of the highest recovery where none did, a choice that favours it a little. Controls "
        "are in the table of all methods."
    )


def equal_density(found: Sequence[Standing]) -> list[Table]:
    """Recovery of methods that were calibrated to equal densities, a column per density and setup."""
    tables = []
    setups = list(dict.fromkeys(one.setup for one in found))
    for number, setup in enumerate(setups, 1):
        own = [one for one in found if one.setup == setup and " @ " in one.series]
        levels = _levels(own)
        if len(levels) == 0 or len({one.line for one in own}) < 2:
            continue
        name = "equal_density" if len(setups) == 1 else f"equal_density-{number}"
        tables.append(_equal_density(name, setup, levels))
    return tables


def _levels(found: Sequence[Standing]) -> list[list[Standing]]:
    """Standings of neighbouring densities together, each line at most once."""
    levels: list[list[Standing]] = []
    for one in sorted(found, key=lambda one: one.density):
        last = levels[-1] if levels else []
        if not last or one.density - last[0].density > 5 or one.line in {two.line for two in last}:
            levels.append([one])
        else:
            last.append(one)
    return levels


def _equal_density(name: str, setup: str, levels: Sequence[Sequence[Standing]]) -> Table:
    columns = {"method": Column("method, calibrated to the densities of the columns")}
    rows: dict[str, dict[str, object]] = {}
    best = set()
    for level in levels:
        head = f"at {sum(one.density for one in level) / len(level):.0f} %"
        ends = f"{head} lo", f"{head} hi"
        columns[head] = Column("recovery at that density, % (95 % interval)", 1, ends)
        columns |= dict.fromkeys(ends, Column("end of the interval", 1))
        for one in level:
            values = zip((head, *ends), (one.found.value, one.found.lo, one.found.hi), strict=True)
            rows.setdefault(one.line, {"method": one.line}).update(values)
    lines = sorted(rows)
    for level in levels:
        head = f"at {sum(one.density for one in level) / len(level):.0f} %"
        first = max(level, key=lambda one: one.found.value)
        if all(first.found.lo > other.found.hi for other in level if other is not first):
            best.add((lines.index(first.line), head))
    frame = pd.DataFrame([rows[line] for line in lines], columns=list(columns))
    title = f"Recovery at equal density, {setup}"
    return Table(name, title, frame, columns, best_caption(best), frozenset(best))
