"""Rows of figures where a setup has many tasks: one task for all, of equal weight."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rr_bench.report.recovery import pooled
from rr_bench.report.tables import Summary

TASKS = 6
"""Tasks that figures show one by one."""

_RESAMPLES = 2_000
_SHARED = ["setup", "series", "line", "point", "family", "dense", "method"]


def rows_of_figures(summary: Summary) -> pd.DataFrame:
    """The summary's rows; of a setup with more than :data:`TASKS` tasks their mean at each length.

    The mean is over the tasks that all methods have there, methods with fewer than half of the tasks
    left out, and its interval over all samples, drawn within tasks.
    """
    frames = []
    for _, rows in summary.frame.groupby("setup", sort=False):
        frames.append(_means(summary, rows) if rows["task"].nunique() > TASKS else rows)
    return pd.concat(frames) if frames else summary.frame


def _means(summary: Summary, rows: pd.DataFrame) -> pd.DataFrame:
    scored = rows[rows["score"].notna()]
    lines = []
    for length, there in scored.groupby("length"):
        every = there["task"].nunique()
        had = there.groupby("point")["task"].agg(set)
        had = had[[2 * len(tasks) >= every for tasks in had]]
        shared = set.intersection(*had)
        for point in had.index:
            own = there[(there["point"] == point) & there["task"].isin(shared)]
            if len(own):
                lines.append(_mean(summary, own) | {"length": length})
    counts = {line["n_tasks"] for line in lines}
    task = f"mean of {'–'.join(map(str, sorted({min(counts), max(counts)})))} tasks" if counts else ""
    lines = [line | {"task": task} for line in lines]
    columns = [*_SHARED, "task", "length", "n", "score", "density", "status"]
    columns += ["recovery", "recovery_lo", "recovery_hi"]
    return pd.DataFrame(lines, columns=columns)


def _mean(summary: Summary, own: pd.DataFrame) -> dict[str, Any]:
    """One method at one length, over its tasks."""
    line: dict[str, Any] = dict(own.iloc[0][_SHARED])
    line |= {"n": int(own["n"].sum()), "n_tasks": len(own), "status": "done"}
    line |= {name: own[name].mean() for name in ("score", "density")}
    pairs = [summary.pairs[cell] for cell in own["cell"] if cell in summary.pairs]
    if pairs and len(pairs) == len(own):
        found = pooled(pairs, _RESAMPLES)
        line |= {"recovery": found.value, "recovery_lo": found.lo, "recovery_hi": found.hi}
    return line
