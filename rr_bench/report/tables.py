"""The summary: one row per cell, the missing ones included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rr_bench.report.load import Missing, current, method_of, missing, natural, samples_frame, setup
from rr_bench.report.recovery import Recovery, ReportError, find_dense, pair, recovery
from rr_bench.store.cells import Cell

COLUMNS = (
    "model",
    "method",
    "keep",
    "task",
    "length",
    "n",
    "questions",
    "score",
    "dense_score",
    "recovery",
    "recovery_lo",
    "recovery_hi",
    "within_noise",
    "density",
    "sparsity",
    "prefill_s",
    "truncated",
    "failed",
    "kernel",
    "status",
    "dtype",
    "device",
    "seed",
    "source",
    "family",
    "dense",
    "cell",
)
"""Columns of ``summary.csv``. Scores, recovery, density and sparsity are percent."""

_ORDER = ["model", "dtype", "device", "seed", "source", "task", "length", "_sparse", "_method", "keep"]

_INTEGER = ("length", "n", "questions", "truncated", "failed", "seed")


@dataclass(frozen=True)
class Summary:
    """The table and what must be said beside it.

    Attributes:
        frame: one row per cell, :data:`COLUMNS`; NaN where a value is undefined.
        cells: the cells behind the rows.
        notes: remarks for the reader: why cells failed, which were replaced by later ones.
        problems: what was refused or unreadable; not empty means the report is incomplete.
    """

    frame: pd.DataFrame
    cells: list[Cell]
    notes: list[str]
    problems: list[str]


def summarise(cells: Sequence[Cell], problems: Sequence[str] = ()) -> Summary:
    """Build the summary of a store's cells.

    A sparse cell that cannot be joined to a dense one keeps its row without a recovery, and the
    reason becomes a problem.
    """
    shown, replaced = current(cells)
    samples = samples_frame(cells)
    rows, refused = [], list(problems)
    for cell in shown:
        row = _row(cell, samples[samples["cell"] == cell.info.key])
        try:
            row |= _recovery_columns(cell, cells, samples)
        except ReportError as error:
            refused.append(str(error))
        rows.append(row)
    rows += [_missing_row(hole) for hole in missing(shown)]
    notes = [note for cell in shown for note in _failure_notes(cell)]
    notes += [
        f"{cell.info.label} ({cell.info.key[:12]}) gave way to a later cell of other code or versions"
        for cell in replaced
    ]
    return Summary(_frame(rows), shown, notes, refused)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows in reading order, dense first, with whole numbers and booleans that may be missing."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    types: dict[str, Any] = {name: "Int64" for name in _INTEGER}
    frame = frame.astype(types | {"within_noise": "boolean", "dense": bool})
    ranks = {label: rank for rank, label in enumerate(sorted(frame["method"].unique(), key=natural))}
    ranked = frame.assign(_sparse=~frame["dense"], _method=frame["method"].map(ranks)).sort_values(
        _ORDER
    )
    return ranked[list(COLUMNS)].reset_index(drop=True)


def _row(cell: Cell, samples: pd.DataFrame) -> dict[str, Any]:
    scored = samples[~samples["failed"]]
    row = _identity(cell, cell.info.task, cell.info.length)
    density = 100 * scored["density"].mean()
    return row | {
        "n": len(scored),
        "questions": int(scored["questions"].sum()),
        "score": 100 * scored["score"].mean(),
        "density": density,
        "sparsity": 100 - density,
        "prefill_s": scored["prefill_s"].median(),
        "truncated": int(scored["truncated"].sum()),
        "failed": _failed(cell),
        "kernel": ", ".join(sorted(set(scored["kernels"]))),
        "status": _status(cell),
        "cell": cell.info.key[:12],
    }


def _identity(cell: Cell, task: str, length: int) -> dict[str, Any]:
    model, _, dtype, device, seed, source = setup(cell)
    method, keep = method_of(cell)
    return {
        "model": model,
        "method": method,
        "keep": keep,
        "task": task,
        "length": length,
        "dtype": dtype,
        "device": device,
        "seed": seed,
        "source": source,
        "family": cell.info.method["name"],
        "dense": cell.info.method["dense"],
    }


def _missing_row(hole: Missing) -> dict[str, Any]:
    return _identity(hole.like, hole.task, hole.length) | {"n": 0, "status": "missing"}


def _failed(cell: Cell) -> int:
    """Samples tried in vain; an error of an unfinished cell counts even without a sample record."""
    failed = {sample.uid for sample in cell.samples if sample.error is not None}
    if cell.done is None:
        scored = {sample.uid for sample in cell.samples if sample.error is None}
        failed |= {error["where"] for error in cell.errors} - scored
    return len(failed)


def _failure_notes(cell: Cell) -> list[str]:
    """Why an unfinished cell stopped, once per message."""
    if cell.done is not None:
        return []
    messages = [sample.error for sample in cell.samples if sample.error is not None]
    messages += [error["message"] for error in cell.errors]
    return [f"{cell.info.label} failed: {message}" for message in dict.fromkeys(messages)]


def _status(cell: Cell) -> str:
    if cell.done is not None:
        return "done"
    return "failed" if _failed(cell) else "unfinished"


def _recovery_columns(cell: Cell, cells: Sequence[Cell], samples: pd.DataFrame) -> dict[str, Any]:
    mine = samples[(samples["cell"] == cell.info.key) & ~samples["failed"]]
    if cell.info.method["dense"] or mine.empty:
        own = 100 * mine["score"].mean()
        return {"dense_score": own} if cell.info.method["dense"] else {}
    scores = pair(cell, find_dense(cell, cells), samples)
    if scores.empty:
        return {}
    found: Recovery = recovery(scores["score"].to_list(), scores["score_dense"].to_list())
    return {
        "dense_score": found.dense,
        "recovery": found.value,
        "recovery_lo": found.lo,
        "recovery_hi": found.hi,
        "within_noise": found.within_noise,
    }
