"""Speed-ups and times by length as tables of a paper: the rows that the figures draw."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd

from rr_bench.report.latency import LEVELS, Latency, dense_lines, dense_name, methods_at
from rr_bench.report.style import length_label
from rr_bench.report.table import Column, Table

Line = tuple[str, str, pd.DataFrame]
"""Level, name and rows of a line of a table, one row per length."""

_ALIKE = 0.02
"""Difference of densities that count as equal."""

_CALLS = 10
"""Calls whose percentiles can tell two methods apart."""

SHOWN = ("attention", "both", "layer", "prefill")


def speed_tables(latency: Latency) -> list[Table]:
    """``latency_speedup-<model>`` and ``latency_time-<model>`` of every model's shape.

    Dense attention comes first; of the methods those of one density, as in the figures.
    """
    done = latency.done
    tables = []
    for model in sorted(set(done["model"]) - {""}):
        lines = list(_lines(done[done["model"] == model]))
        if not lines:
            continue
        lengths = sorted({int(length) for _, _, rows in lines for length in rows["length"]})
        for name, column, unit, decimals, meaning in (
            ("speedup", "speedup", "×", 2, "time of the strongest dense attention / its"),
            ("time", "median_ms", "", 2, "median milliseconds"),
        ):
            heads = {
                "level": Column("what was timed"),
                "method": Column("method with its settings, or dense attention's back end"),
                "density": Column("computed share of the causal blocks, %", 0),
            }
            heads |= {length_label(one): Column(meaning, decimals, unit=unit) for one in lengths}
            table = pd.DataFrame([_row(*line, column) for line in lines], columns=list(heads))
            title = f"{'Speed-up' if unit else 'Time (ms)'} by length, {model} on {latency.device}"
            best = frozenset(_fastest(lines))
            tables.append(Table(f"latency_{name}-{model}", title, table, heads, _caption(best), best))
    return tables


def _fastest(lines: Sequence[Line]) -> Iterator[tuple[int, str]]:
    """Row and column of what is faster than everything else of its level and length, dense included.

    Its 20th to 80th percentile lies below all others', of enough calls each; and all methods have one
    density, since a time holds for its density.
    """
    timed = pd.concat([rows.assign(number=number) for number, (_, _, rows) in enumerate(lines)])
    for _, own in timed.groupby(["level", "length"]):
        sparse = own[own["method"] != "full"]
        alike = sparse["density"].max() - sparse["density"].min() <= _ALIKE
        first, *others = own.sort_values("median_ms").to_dict("records")
        clear = all(first["p80_ms"] < one["p20_ms"] for one in others)
        if len(sparse) > 1 and alike and clear and own["n"].min() >= _CALLS:
            yield int(first["number"]), length_label(int(first["length"]))


def _caption(best: Collection[object]) -> str:
    which = (
        f"at equal density, of {_CALLS} calls or more, where 20th to 80th percentiles do not overlap"
    )
    return f"{'Bold' if best else 'Nothing is bold, which would be'}: the fastest {which}."


def _lines(rows: pd.DataFrame) -> Iterator[Line]:
    """Every line, dense attention first."""
    for level in SHOWN:
        own = methods_at(rows, level)
        own = own[own["method"] != "mask"]
        if own.empty:
            continue
        for backend, dense in dense_lines(rows, level):
            yield level, f"dense, {dense_name(backend)}", dense
        for series, line in own.groupby("series"):
            yield level, str(series), line.drop_duplicates("length")


def _row(level: str, name: str, rows: pd.DataFrame, column: str) -> dict[str, Any]:
    values = {length_label(int(row["length"])): row[column] for row in rows.to_dict("records")}
    return {
        "level": LEVELS[level],
        "method": name,
        "density": 100 * float(rows["density"].mean()),
        **values,
    }
