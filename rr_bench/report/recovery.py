"""Score recovery: the one definition, the interval around it, and the join that makes it fair.

recovery = mean sparse score / mean dense score x 100, over the same samples. The interval is a
paired percentile bootstrap: samples are drawn with replacement, each with its sparse and its dense
score, so what makes a sample hard cancels out. The unit is the sample, also where one prompt
carries many questions, because questions of one prompt are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rr_bench.report.identity import METHOD_SIDE, flat
from rr_bench.store.reading import StoredCell

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 20_240_602

_CHUNK = 4_000_000
"""Drawn indices held at once."""

_UNDEFINED_LIMIT = 0.01
"""Share of resamples without any dense score beyond which no interval is given."""


class ReportError(RuntimeError):
    """Two cells that must not be compared; the message names what differs."""


@dataclass(frozen=True)
class Recovery:
    """Recovery over paired samples, in percent.

    Attributes:
        n: paired samples.
        sparse: mean sparse score, 0..100.
        dense: mean dense score over the same samples, 0..100.
        value: recovery; NaN where the dense mean is 0.
        lo: lower end of the 95 % interval; NaN where undefined (dense mean 0, fewer than 2 samples).
        hi: upper end.
    """

    n: int
    sparse: float
    dense: float
    value: float
    lo: float
    hi: float

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval covers 100; None without an interval."""
        if math.isnan(self.lo):
            return None
        return self.lo <= 100 + 1e-9 and self.hi >= 100 - 1e-9


def recovery(sparse: Sequence[float], dense: Sequence[float], resamples: int = RESAMPLES) -> Recovery:
    """Recovery of paired scores.

    Args:
        sparse: scores 0..1 of the method, one per sample.
        dense: scores 0..1 of the dense baseline on the same samples in the same order.
        resamples: bootstrap draws; the seed is fixed, so equal input gives an equal interval.

    Raises:
        ValueError: the two differ in number, or there is none.
    """
    a, b = np.asarray(sparse, dtype=np.float64), np.asarray(dense, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"recovery needs paired scores, got {a.shape} sparse and {b.shape} dense")
    value = 100 * (a.sum() / b.sum()) if b.any() else math.nan
    lo, hi = _interval(a, b, resamples)
    return Recovery(a.size, 100 * float(a.mean()), 100 * float(b.mean()), float(value), lo, hi)


def _interval(a: NDArray[np.float64], b: NDArray[np.float64], resamples: int) -> tuple[float, float]:
    n = a.size
    if n < 2 or not b.any():
        return math.nan, math.nan
    generator = np.random.default_rng(SEED)
    ratios = np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        draw = generator.integers(0, n, size=(min(step, resamples - start), n))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios[start : start + len(draw)] = a[draw].sum(1) / b[draw].sum(1)
    ratios = ratios[np.isfinite(ratios)]
    if ratios.size < (1 - _UNDEFINED_LIMIT) * resamples:
        return math.nan, math.nan
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(ratios, (tail, 1 - tail))
    return 100 * float(lo), 100 * float(hi)


def find_dense(cell: StoredCell, cells: Iterable[StoredCell]) -> StoredCell:
    """The dense cell with the settings of a sparse one.

    Raises:
        ReportError: there is none; names what the nearest one differs in.
    """
    dense = [other for other in cells if other.info.dense]
    if not dense:
        raise ReportError(
            f"{cell.info.label}: the store has no dense cell; add full to methods and run again"
        )
    settings = cell.info.settings
    own = _shared(settings)
    fitting = [other for other in dense if _shared(other.info.settings) == own]
    if fitting:
        return max(fitting, key=lambda other: (str(other.env.get("time", "")), other.info.key))
    nearest = min(
        dense,
        key=lambda other: (len(differences(settings, other.info.settings)), other.info.key),
    )
    raise ReportError(
        f"{cell.info.label}: no dense cell of equal settings; the nearest, {nearest.info.label}, "
        f"differs in {'; '.join(differences(settings, nearest.info.settings))}. "
        "Run full with the settings of this cell"
    )


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a sparse cell and its dense cell must have in common."""
    shared = {name: value for name, value in settings.items() if name not in METHOD_SIDE}
    versions = {name: item for name, item in settings["versions"].items() if name != "method"}
    return shared | {"versions": versions}


def differences(sparse: Mapping[str, Any], dense: Mapping[str, Any]) -> list[str]:
    """Settings, other than the method's own, in which two cells differ: ``"name: a | b"``."""
    a, b = flat(_shared(sparse)), flat(_shared(dense))
    return [
        f"{'.'.join(name)}: {a.get(name, 'default')} | {b.get(name, 'default')}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def pair(cell: StoredCell, dense: StoredCell, ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Scores of a cell and its dense cell side by side: columns uid, score, score_dense.

    Samples that failed on either side are left out; the table counts them.

    Args:
        cell: the sparse cell.
        dense: its dense cell.
        ours: the sparse cell's samples, from ``samples_frame``; the failed ones are passed over.
        theirs: the dense cell's.

    Raises:
        ReportError: a prompt differs, or the dense cell lacks a sample.
    """
    columns = ["uid", "prompt_sha", "score"]
    tried = ours.loc[~ours["failed"], columns]
    both = tried.merge(theirs[columns], on="uid", how="left", suffixes=("", "_dense"))
    lacking = both.loc[both["prompt_sha_dense"].isna(), "uid"]
    if len(lacking):
        raise ReportError(
            f"{cell.info.label}: its dense cell lacks {len(lacking)} of {len(both)} samples "
            f"(first: {lacking.iloc[0]}). Run full again to finish it"
        )
    changed = both.loc[both["prompt_sha"] != both["prompt_sha_dense"], "uid"]
    if len(changed):
        raise ReportError(
            f"{cell.info.label}: prompt_sha differs from the dense cell's in {len(changed)} of "
            f"{len(both)} samples (first: {changed.iloc[0]}); they did not get the same prompts"
        )
    return both.dropna(subset=["score", "score_dense"])[["uid", "score", "score_dense"]]
