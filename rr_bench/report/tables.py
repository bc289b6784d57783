"""The summary: one row per cell, the missing ones included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rr_bench.report.environment import provenance
from rr_bench.report.identity import Identity, superseded
from rr_bench.report.load import Measured, Missing, measured, missing, natural
from rr_bench.report.recovery import Baselines, Pairs, Recovery, ReportError, pair, pooled_all
from rr_bench.report.series import line_of, points
from rr_bench.report.table import Column
from rr_bench.report.verdict import MARGIN, Standing, outcome, standings
from rr_bench.store.stored import StoredCell

MEANINGS = {
    "model": Column("name of the model"),
    "method": Column("method with its settings"),
    "keep": Column("blocks that are always computed"),
    "task": Column("task"),
    "length": Column("nominal length in tokens"),
    "n": Column("scored samples"),
    "questions": Column("questions that they carry together"),
    "score": Column("mean over samples, percent", 1),
    "dense_score": Column("that of dense attention on the same samples, percent", 1),
    "recovery": Column(
        "mean score / mean dense score x 100 with its 95 % interval",
        1,
        ("recovery_lo", "recovery_hi"),
    ),
    "recovery_lo": Column("lower end of the interval", 1),
    "recovery_hi": Column("upper end of the interval", 1),
    "verdict": Column("kept, gained, lost or undecided"),
    "density": Column("computed share of the causal 128 x 128 blocks, percent", 1),
    "sparsity": Column("100 - density", 1),
    "prefill_s": Column("median seconds of a forward pass at whatever load there was", 3),
    "speedup": Column("prefill_s of dense attention / prefill_s; on one kind of device", 2, unit="×"),
    "truncated": Column("samples whose context was cut to fit"),
    "failed": Column("samples without a score; they are in no mean"),
    "kernel": Column("what computed the attention"),
    "status": Column("done, unfinished, failed or missing"),
    "dtype": Column("data type of the model"),
    "device": Column("kind of the device"),
    "seed": Column("seed of the prompts"),
    "source": Column("where the prompts come from"),
    "family": Column("name of the method"),
    "dense": Column("whether this is dense attention"),
    "series": Column("method, with settings beside it where it was run under several"),
    "line": Column("series without the method's knob"),
    "point": Column("series; of settings chosen for one length, the line and its density"),
    "setup": Column("model and the settings that cells of one figure share"),
    "cell": Column("start of the cell's key"),
}
"""What the columns hold."""

COLUMNS = tuple(MEANINGS)
"""Columns of ``summary.csv``, before those that vary in a store. Scores, recovery, density and
sparsity are percent."""

ANSWERED = "answered"
"""Further column of stores with multiple choice: percent of samples whose output names an option."""

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
        margin: points around 100 % within which a recovery counts as kept.
    """

    frame: pd.DataFrame
    cells: list[StoredCell]
    pairs: dict[str, Pairs]
    notes: list[str]
    problems: list[str]
    margin: float = MARGIN

    @cached_property
    def standings(self) -> list[Standing]:
        """Every method over all its cells."""
        return standings(self.frame, self.pairs, self.margin)


def summarise(
    cells: Sequence[StoredCell], problems: Sequence[str] = (), margin: float = MARGIN
) -> Summary:
    """Build the summary of a store's cells.

    A sparse cell that cannot be joined to a dense one keeps its row without a recovery, and the
    reason becomes a problem.
    """
    replaced = superseded(cells)
    shown = [cell for cell in cells if cell.info.key not in replaced]
    identity = Identity(shown)
    found_in = {cell.info.key: measured(cell) for cell in shown}
    baselines, pairs = Baselines(shown), {}
    rows, refused = [], list(problems)
    for cell in shown:
        row = _row(cell, identity, found_in[cell.info.key])
        try:
            dense = None if cell.info.dense or not cell.scored else baselines.of(cell)
            found = None if dense is None else pair(cell, dense)
            row |= _speedup(row, cell, dense, found_in)
        except ReportError as error:
            refused.append(str(error))
            found = None
        if found is not None and len(found) and len(found[0]):
            pairs[row["cell"]] = found
        rows.append(row)
    found_of = dict(zip(pairs, pooled_all([[one] for one in pairs.values()]), strict=True))
    rows = [row | _recovery_columns(row, found_of.get(row["cell"]), margin) for row in rows]
    rows += [_missing_row(hole, identity) for hole in missing(shown, identity)]
    notes = [note for cell in shown for note in _failure_notes(cell)]
    notes += [*provenance(shown), *_version_notes(cells, replaced)]
    further = [ANSWERED] if any(ANSWERED in row for row in rows) else []
    return Summary(_frame(rows, [*further, *identity.varying]), shown, pairs, notes, refused, margin)


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
    frame["point"] = points(frame)
    joined = frame["point"] != frame["series"]
    # A setting chosen for one length is no hole at another that its line was measured at.
    holes = frame["status"] == "missing"
    frame = frame[~(holes & frame["series"].isin(frame.loc[joined, "series"]))].copy()
    ranks = {label: rank for rank, label in enumerate(sorted(frame["series"].unique(), key=natural))}
    ranked = frame.assign(_sparse=~frame["dense"], _series=frame["series"].map(ranks)).sort_values(
        _ORDER
    )
    return ranked[columns].reset_index(drop=True)


def _row(cell: StoredCell, identity: Identity, found: Measured) -> dict[str, Any]:
    row = _identity(cell, identity, cell.info.task, cell.info.length)
    named = cell.columns.answered[cell.columns.scored & ~np.isnan(cell.columns.answered)]
    if named.size:
        row[ANSWERED] = 100 * int(named.sum()) / named.size
    return row | {
        "n": found.n,
        "questions": found.questions,
        "score": 100 * found.score,
        "density": 100 * found.density,
        "sparsity": 100 - 100 * found.density,
        "prefill_s": found.prefill_s,
        "truncated": found.truncated,
        "failed": _failed(cell),
        "kernel": found.kernels,
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
    failed = set(cell.columns.uid).difference(cell.scored)
    if cell.done is None:
        failed |= {error["where"] for error in cell.errors}.difference(cell.scored)
    return len(failed)


def _failure_notes(cell: StoredCell) -> list[str]:
    """Why samples have no score or a cell stopped, once per message."""
    messages = [error for error in cell.columns.error if error is not None]
    if cell.done is None:
        messages += [error["message"] for error in cell.errors]
    return [f"{cell.info.label} failed: {message}" for message in dict.fromkeys(messages)]


def _status(cell: StoredCell) -> str:
    if cell.done is not None:
        return "done"
    return "failed" if _failed(cell) else "unfinished"


def _speedup(
    row: Mapping[str, Any],
    cell: StoredCell,
    dense: StoredCell | None,
    found: Mapping[str, Measured],
) -> dict[str, float]:
    """Prefill seconds of the dense cell over those of this one, if one kind of device ran both."""
    if dense is None or cell.env.get("device") != dense.env.get("device"):
        return {}
    theirs, own = found[dense.info.key].prefill_s, row["prefill_s"]
    return {"speedup": theirs / own if own else math.nan}


def _recovery_columns(row: Mapping[str, Any], found: Recovery | None, margin: float) -> dict[str, Any]:
    if row["dense"]:
        return {"dense_score": row["score"]}
    if found is None:
        return {}
    return {
        "dense_score": found.dense,
        "recovery": found.value,
        "recovery_lo": found.lo,
        "recovery_hi": found.hi,
        "verdict": outcome(found, margin),
    }
