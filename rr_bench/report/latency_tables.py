"""Speed-ups and times by length as tables of a paper: the rows that the figures draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rr_bench.report.latency import LEVELS, Latency, dense_lines, dense_name, methods_at
from rr_bench.report.style import length_label
from rr_bench.report.table import Column, Table

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
            tables.append(Table(f"latency_{name}-{model}", title, table, heads))
    return tables


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Level, name and rows of every line, one row per length."""
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
