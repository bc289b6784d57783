"""The samples of a store's cells as one frame, and which cells one would expect but are not there."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rr_bench.report.identity import Identity
from rr_bench.store.reading import StoredCell

SAMPLE_COLUMNS = (
    "cell",
    "truncated",
    "score",
    "questions",
    "density",
    "prefill_s",
    "kernels",
    "failed",
)


@dataclass(frozen=True)
class Missing:
    """A cell that the rest of the store leads one to expect: its neighbours exist."""

    like: StoredCell
    """A cell of the same model and method, at another task or length."""
    task: str
    length: int


def samples_frame(cells: Iterable[StoredCell]) -> pd.DataFrame:
    """One row per sample; ``score`` is 0..1 and NaN where the sample failed, ``cell`` is the key."""
    rows = [
        {
            "cell": cell.info.key,
            "truncated": sample.truncated,
            "score": sample.score,
            "questions": sample.questions,
            "density": sample.density,
            "prefill_s": None if sample.compiled else sample.prefill_s,
            "kernels": " + ".join(sorted(set(sample.kernels))),
            "failed": sample.error is not None,
        }
        for cell in cells
        for sample in cell.samples
    ]
    frame = pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS))
    types: dict[str, Any] = dict.fromkeys(("score", "density", "prefill_s"), float)
    return frame.astype(types | dict.fromkeys(("truncated", "failed"), bool))


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
