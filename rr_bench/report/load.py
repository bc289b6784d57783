"""What a cell's samples come to, and which cells one would expect but are not there."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from rr_bench.report.identity import Identity
from rr_bench.store.stored import StoredCell


@dataclass(frozen=True)
class Missing:
    """A cell that the rest of the store leads one to expect: its neighbours exist."""

    like: StoredCell
    """A cell of the same model and method, at another task or length."""
    task: str
    length: int


@dataclass(frozen=True)
class Measured:
    """What a cell's scored samples come to.

    Attributes:
        n: scored samples.
        questions: that they carry together.
        score: mean, 0..1; NaN without samples, as the others.
        density: mean, 0..1.
        prefill_s: median seconds of the passes that compiled nothing.
        truncated: samples whose context was cut to fit.
        kernels: that computed the attention.
    """

    n: int
    questions: int
    score: float
    density: float
    prefill_s: float
    truncated: int
    kernels: str


def measured(cell: StoredCell) -> Measured:
    """Counts, means and the median of one cell."""
    columns, scored = cell.columns, cell.columns.scored
    seconds = columns.prefill_s[scored & ~columns.compiled & ~np.isnan(columns.prefill_s)]
    return Measured(
        int(scored.sum()),
        int(columns.questions[scored].sum()),
        _mean(columns.score[scored]),
        _mean(cell.densities),
        float(np.median(seconds)) if seconds.size else math.nan,
        int(columns.truncated[scored].sum()),
        ", ".join(sorted(set(compress(columns.kernels, scored)))),
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def missing(cells: Sequence[StoredCell], identity: Identity) -> list[Missing]:
    """Holes in every setup: lengths of a task at which a method that has the task was not measured.

    A setting measured at less than half of the lengths is expected at no other if its method has other
    settings: it was chosen for where it was measured, by calibration for example.
    """
    setups: dict[str, list[tuple[str, StoredCell]]] = defaultdict(list)
    for cell in cells:
        columns = identity.columns(cell)
        setups[columns["setup"]].append((columns["series"], cell))
    return [hole for group in setups.values() for hole in _holes(group)]


def _holes(group: list[tuple[str, StoredCell]]) -> list[Missing]:
    lengths: dict[str, set[int]] = defaultdict(set)
    measured: dict[str, dict[str, dict[int, StoredCell]]] = defaultdict(lambda: defaultdict(dict))
    for series, cell in group:
        lengths[cell.info.task].add(cell.info.length)
        measured[series][cell.info.task][cell.info.length] = cell
    families = Counter(series.partition("(")[0] for series in measured)
    holes = []
    for series, tasks in measured.items():
        expected = sum(len(lengths[task]) for task in tasks)
        few = 2 * sum(map(len, tasks.values())) < expected
        if few and families[series.partition("(")[0]] > 1:
            continue
        for task, cells_of in tasks.items():
            like = next(iter(cells_of.values()))
            absent = sorted(lengths[task] - cells_of.keys())
            holes += [Missing(like, task, length) for length in absent]
    return holes


def natural(label: str) -> list[tuple[int, float, str]]:
    """Sort key that puts 8 before 16."""
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", label)
    return [(1, float(part), "") if part[0].isdigit() else (0, 0.0, part) for part in parts]
