"""The table in short, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rr_bench.latency.table import DONE, FAILED, MISSING, Row

HEADS = ("level", "model", "inputs", "method", "back end", "length", "density", "ms", "n", "TFLOP/s")


def summary(rows: Sequence[Row]) -> str:
    """The rows of every level, model and inputs at the longest length that was measured, and how
    many rows there are in all.
    """
    longest: dict[tuple[str, str, str], int] = {}
    for row in rows:
        if row.status == DONE:
            case = row.level, row.model, row.inputs
            longest[case] = max(longest.get(case, 0), row.length or 0)
    shown = [
        row
        for row in rows
        if row.status == DONE and longest[row.level, row.model, row.inputs] == (row.length or 0)
    ]
    lines = [[*HEADS, "x cuDNN"], *(_cells(row) for row in shown)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    counts = [
        f"{sum(row.status == status for row in rows)} {status}" for status in (DONE, FAILED, MISSING)
    ]
    return "\n".join([*(text if shown else []), f"rows: {', '.join(counts)}"])


def _cells(row: Row) -> list[str]:
    return [
        row.level,
        row.model,
        row.inputs,
        row.method,
        row.backend or "",
        str(row.length or ""),
        _number(row.density, ".2f"),
        _number(row.median_ms, ".3g" if (row.median_ms or 0) < 100 else ".0f"),
        str(row.n or ""),
        _number(row.tflops, ".0f") if row.gb_s is None else f"{row.gb_s:.0f} GB/s",
        _number(row.vs_dense_cudnn, ".2f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
