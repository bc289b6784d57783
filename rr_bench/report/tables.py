"""The summary: one row per cell, the missing ones included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rr_bench.report.environment import provenance
from rr_bench.report.identity import Identity, superseded
from rr_bench.report.load import Missing, missing, natural, samples_frame
from rr_bench.report.recovery import Baselines, Pairs, ReportError, pair, pooled
from rr_bench.report.series import line_of
from rr_bench.report.verdict import outcome
from rr_bench.store.reading import StoredCell

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
    "verdict",
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
    "series",
    "line",
    "setup",
    "cell",
)
"""Columns of ``summary.csv``, before those that vary in a store. Scores, recovery, density and
sparsity are percent."""

_ORDER = ["setup", "task", "length", "_sparse", "_series"]

_INTEGER = ("length", "n", "questions", "truncated", "failed", "seed")


@dataclass(frozen=True)
class Summary:
    """The table and what must be said beside it.

    Attributes:
        frame: one row per cell, :data:`COLUMNS`; NaN where a value is undefined.
        cells: the cells behind the rows.
        pairs: by the rows' ``cell``, the scores behind a recovery.
        notes: remarks for the reader: why cells failed, which were replaced by later ones, what rows
            were measured on if that differs.
        problems: what was refused or unreadable; not empty means the report is incomplete.
    """

    frame: pd.DataFrame
    cells: list[StoredCell]
    pairs: dict[str, Pairs]
    notes: list[str]
    problems: list[str]


def summarise(cells: Sequence[StoredCell], problems: Sequence[str] = ()) -> Summary:
    """Build the summary of a store's cells.

    A sparse cell that cannot be joined to a dense one keeps its row without a recovery, and the
    reason becomes a problem.
    """
    replaced = superseded(cells)
    shown = [cell for cell in cells if cell.info.key not in replaced]
    identity = Identity(shown)
    samples = samples_frame(cells)
    by_cell = {str(key): rows for key, rows in samples.groupby("cell")}
    empty = samples.iloc[:0]
    baselines, pairs = Baselines(shown), {}
    rows, refused = [], list(problems)
    for cell in shown:
        row = _row(cell, identity, by_cell.get(cell.info.key, empty))
        try:
            found = [] if cell.info.dense or not cell.scored else pair(cell, baselines.of(cell))
        except ReportError as error:
            refused.append(str(error))
            found = []
        if found:
            pairs[row["cell"]] = found
        rows.append(row | _recovery_columns(row, found))
    rows += [_missing_row(hole, identity) for hole in missing(shown, identity)]
    notes = [note for cell in shown for note in _failure_notes(cell)]
    notes += [*provenance(shown), *_version_notes(cells, replaced)]
    return Summary(_frame(rows, identity.varying), shown, pairs, notes, refused)


def _version_notes(cells: Sequence[StoredCell], replaced: Mapping[str, StoredCell]) -> list[str]:
    """Which cells gave way to others of later versions."""
    notes = []
    for cell in cells:
        later = replaced.get(cell.info.key)
        if later is not None:
            old, new = (one.info.settings["versions"] for one in (cell, later))
            notes.append(
                f"{cell.info.label} ({cell.info.key[:12]}) of versions {old} gave way to "
                f"{later.info.key[:12]} of versions {new}"
            )
    return notes


def _frame(rows: list[dict[str, Any]], varying: Sequence[str]) -> pd.DataFrame:
    """Rows in reading order, dense first, with whole numbers that may be missing."""
    columns = [*COLUMNS, *(name for name in varying if name not in COLUMNS)]
    frame = pd.DataFrame(rows, columns=columns)
    types: dict[str, Any] = {name: "Int64" for name in _INTEGER}
    frame = frame.astype(types | {"dense": bool})
    ranks = {label: rank for rank, label in enumerate(sorted(frame["series"].unique(), key=natural))}
    ranked = frame.assign(_sparse=~frame["dense"], _series=frame["series"].map(ranks)).sort_values(
        _ORDER
    )
    return ranked[columns].reset_index(drop=True)


def _row(cell: StoredCell, identity: Identity, samples: pd.DataFrame) -> dict[str, Any]:
    scored = samples[~samples["failed"]]
    row = _identity(cell, identity, cell.info.task, cell.info.length)
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


def _identity(cell: StoredCell, identity: Identity, task: str, length: int) -> dict[str, Any]:
    columns = identity.columns(cell)
    return {
        **columns,
        "line": line_of(columns["series"], cell.info.method.get("knob")),
        "method": cell.info.method["label"],
        "task": task,
        "length": length,
        "family": cell.info.method["name"],
        "dense": cell.info.dense,
    }


def _missing_row(hole: Missing, identity: Identity) -> dict[str, Any]:
    return _identity(hole.like, identity, hole.task, hole.length) | {"n": 0, "status": "missing"}


def _failed(cell: StoredCell) -> int:
    """Samples tried in vain; an error of an unfinished cell counts even without a sample record."""
    failed = {sample.uid for sample in cell.samples if sample.error is not None}
    if cell.done is None:
        failed |= {error["where"] for error in cell.errors} - cell.scored.keys()
    return len(failed)


def _failure_notes(cell: StoredCell) -> list[str]:
    """Why samples have no score or a cell stopped, once per message."""
    messages = [sample.error for sample in cell.samples if sample.error is not None]
    if cell.done is None:
        messages += [error["message"] for error in cell.errors]
    return [f"{cell.info.label} failed: {message}" for message in dict.fromkeys(messages)]


def _status(cell: StoredCell) -> str:
    if cell.done is not None:
        return "done"
    return "failed" if _failed(cell) else "unfinished"


def _recovery_columns(row: Mapping[str, Any], pairs: Pairs) -> dict[str, Any]:
    if row["dense"]:
        return {"dense_score": row["score"]}
    if not pairs:
        return {}
    found = pooled([pairs])
    return {
        "dense_score": found.dense,
        "recovery": found.value,
        "recovery_lo": found.lo,
        "recovery_hi": found.hi,
        "verdict": outcome(found),
    }
