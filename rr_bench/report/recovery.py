"""Score recovery: the one definition, the interval around it, and the join that makes it fair.

recovery = mean sparse score / mean dense score x 100, over the same samples. The interval is a
paired percentile bootstrap: samples are drawn with replacement, each with its sparse and its dense
score, so what makes a sample hard cancels out. The unit is the sample, also where one prompt
carries many questions, because questions of one prompt are not independent. Samples of one cluster (the
questions about one video) are drawn together for the same reason.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.report.identity import METHOD_SIDE, flat, versions_of
from rr_bench.store.stored import StoredCell

Pairs = NDArray[np.float64] | Sequence[tuple[float, float] | tuple[float, float, str]]
"""Scores 0..1 of a method and of dense attention: one pair per sample, with its cluster if any, or an
array ``[2, samples]``."""

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 20_240_602

_CHUNK = 4_000_000
"""Drawn indices held at once."""

_TOGETHER = 256
"""Groups whose resamples are held at once."""

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


def recovery(sparse: Sequence[float], dense: Sequence[float], resamples: int = RESAMPLES) -> Recovery:
    """Recovery of paired scores.

    Args:
        sparse: scores 0..1 of the method, one per sample.
        dense: scores 0..1 of the dense baseline on the same samples in the same order.
        resamples: bootstrap draws; the seed is fixed, so equal input gives an equal interval.

    Raises:
        ValueError: the two differ in number, or there is none.
    """
    if len(sparse) != len(dense):
        raise ValueError(f"recovery needs paired scores, got {len(sparse)} sparse, {len(dense)} dense")
    return pooled([list(zip(sparse, dense, strict=True))], resamples)


def pooled(cells: Sequence[Pairs], resamples: int = RESAMPLES) -> Recovery:
    """Recovery over several cells, each of equal weight: mean of their sparse over that of their dense
    scores. Samples are drawn within their cells, those of one cluster together.

    Raises:
        ValueError: there is no cell, or one without samples.
    """
    (found,) = pooled_all([cells], resamples)
    return found


def pooled_all(groups: Sequence[Sequence[Pairs]], resamples: int = RESAMPLES) -> list[Recovery]:
    """:func:`pooled` of every group. Groups of equal numbers of samples share their draws, since the
    seed is the same: that is what makes thousands of intervals affordable.
    """
    strata = [[_scores(pairs) for pairs in cells] for cells in groups]
    if not all(cells and all(scores.size for scores in cells) for cells in strata):
        raise ValueError("recovery needs paired scores of at least one sample in every cell")
    units = [list(map(_units, cells, group)) for cells, group in zip(groups, strata, strict=True)]
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for place, both in enumerate(zip(strata, units, strict=True)):
        alike[tuple((a.shape[1], b.shape[1]) for a, b in zip(*both, strict=True))].append(place)
    ends: dict[int, tuple[float, float]] = {}
    for sizes, places in alike.items():
        for start in range(0, len(places), _TOGETHER):
            part = places[start : start + _TOGETHER]
            found = _intervals(sizes, [units[place] for place in part], resamples)
            ends |= dict(zip(part, found, strict=True))
    return [_recovery(group, ends[place]) for place, group in enumerate(strata)]


def _scores(pairs: Pairs) -> NDArray[np.float64]:
    if isinstance(pairs, np.ndarray):
        return pairs
    return np.array([pair[:2] for pair in pairs], dtype=np.float64).T


def _units(pairs: Pairs, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is drawn: ``[2, units]``, the samples' scores, of those with a cluster its sums."""
    if isinstance(pairs, np.ndarray) or all(len(pair) == 2 for pair in pairs):
        return scores
    names = [pair[2] if len(pair) == 3 else f"sample {number}" for number, pair in enumerate(pairs)]
    numbers = np.unique(names, return_inverse=True)[1]
    return np.stack([np.bincount(numbers, weights=row) for row in scores])


def _recovery(strata: Sequence[NDArray[np.float64]], ends: tuple[float, float]) -> Recovery:
    a, b = np.mean([scores.mean(1) for scores in strata], axis=0)
    # Sums, not means, so that one cell is summed as it stands.
    weights = _weights([scores.shape[1] for scores in strata])
    above, below = sum(weight * scores.sum(1) for weight, scores in zip(weights, strata, strict=True))
    value = 100 * (above / below) if below else math.nan
    n = sum(scores.shape[1] for scores in strata)
    return Recovery(n, 100 * float(a), 100 * float(b), float(value), *ends)


def _weights(sizes: Sequence[int]) -> list[float]:
    return [sizes[0] / size for size in sizes]


def _intervals(
    sizes: Sequence[tuple[int, int]],
    groups: Sequence[Sequence[NDArray[np.float64]]],
    resamples: int,
) -> list[tuple[float, float]]:
    """Ends of the interval of every group; a stratum holds sparse and dense scores, ``[2, units]``.

    ``sizes`` are the samples and the units of each stratum.
    """
    if sum(units for _, units in sizes) < 2:
        return [(math.nan, math.nan)] * len(groups)
    generator = np.random.default_rng(SEED)
    above, below = np.zeros((2, resamples, len(groups)))
    weights = _weights([samples for samples, _ in sizes])
    for place, ((_, size), weight) in enumerate(zip(sizes, weights, strict=True)):
        a, b = np.stack([group[place] for group in groups], axis=2)  # [size, groups] each
        step = max(1, _CHUNK // size)
        for start in range(0, resamples, step):
            part = slice(start, min(start + step, resamples))
            drawn = _counts(generator, size, part.stop - start)
            above[part] += weight * (drawn @ a)
            below[part] += weight * (drawn @ b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = above / below
    return [_ends(column) for column in np.ascontiguousarray(ratios.T)]


def _counts(generator: np.random.Generator, size: int, rows: int) -> NDArray[np.float64]:
    """How often each sample is drawn: ``[rows, size]``, every row ``size`` draws with replacement."""
    draw = generator.integers(0, size, size=(rows, size))
    draw += size * np.arange(rows)[:, None]
    return np.bincount(draw.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _ends(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the interval of one group's resamples; NaN where too many have no dense score."""
    resamples = ratios.size
    ratios = ratios[np.isfinite(ratios)]
    if ratios.size < max((1 - _UNDEFINED_LIMIT) * resamples, 1):
        return math.nan, math.nan
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(ratios, (tail, 1 - tail))
    return 100 * float(lo), 100 * float(hi)


class Baselines:
    """The dense cells of a store, found by the settings that a sparse cell shares with its own.

    Args:
        cells: all cells.
    """

    def __init__(self, cells: Sequence[StoredCell]) -> None:
        self._fitting: dict[str, list[StoredCell]] = defaultdict(list)
        self._places: dict[tuple[str, int], list[StoredCell]] = defaultdict(list)
        self._dense = [cell for cell in cells if cell.info.dense]
        self._refused: dict[str, str] = {}
        for cell in self._dense:
            self._fitting[_shared_text(cell)].append(cell)
            self._places[cell.info.task, cell.info.length].append(cell)

    def of(self, cell: StoredCell) -> StoredCell:
        """The dense cell with the settings of a sparse one.

        Raises:
            ReportError: there is none; names what the nearest one differs in.
        """
        if not self._dense:
            raise ReportError(
                f"{cell.info.label}: the store has no dense cell; add full to methods and run again"
            )
        wanted = _shared_text(cell)
        fitting = self._fitting.get(wanted)
        if fitting:
            return max(fitting, key=lambda other: (versions_of(other), other.info.key))
        if wanted not in self._refused:
            self._refused[wanted] = self._nearest(cell)
        raise ReportError(f"{cell.info.label}: {self._refused[wanted]}")

    def _nearest(self, cell: StoredCell) -> str:
        """What tells a sparse cell from the nearest dense one, at its task and length if possible."""
        settings = cell.info.settings
        near = self._places.get((cell.info.task, cell.info.length), self._dense)
        differing = {other.info.key: differences(settings, other.info.settings) for other in near}
        nearest = min(near, key=lambda other: (len(differing[other.info.key]), other.info.key))
        return (
            f"no dense cell of equal settings; the nearest, {nearest.info.label}, "
            f"differs in {'; '.join(differing[nearest.info.key])}. "
            "Run full with the settings of this cell"
        )


def _shared_text(cell: StoredCell) -> str:
    return json.dumps(_shared(cell.info.settings), sort_keys=True)


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


def pair(cell: StoredCell, dense: StoredCell) -> Pairs:
    """Scores of a cell and its dense cell side by side.

    Samples that failed on either side are left out; the table counts them.

    Raises:
        ReportError: a prompt differs, or the dense cell lacks a sample.
    """
    mine, theirs = cell.columns, dense.columns
    place_of = {uid: place for place, uid in enumerate(theirs.uid)}
    tried = cell.scored
    lacking = [uid for uid in tried if uid not in place_of]
    if lacking:
        raise ReportError(
            f"{cell.info.label}: its dense cell lacks {len(lacking)} of {len(tried)} samples "
            f"(first: {lacking[0]}). Run full again to finish it"
        )
    both = [(place, place_of[mine.uid[place]]) for place in np.flatnonzero(mine.scored).tolist()]
    both = [(own, other) for own, other in both if theirs.error[other] is None]
    changed = [mine.uid[a] for a, b in both if mine.prompt_sha[a] != theirs.prompt_sha[b]]
    if changed:
        raise ReportError(
            f"{cell.info.label}: prompt_sha differs from the dense cell's in {len(changed)} of "
            f"{len(tried)} samples (first: {changed[0]}); they did not get the same prompts"
        )
    places = np.array(both, np.int64).reshape(-1, 2).T
    scores = np.stack([mine.score[places[0]], theirs.score[places[1]]])
    clusters = [mine.cluster[place] for place in places[0]]
    if not any(clusters):
        return scores
    named = zip(*scores.tolist(), clusters, strict=True)
    return [(a, b, cluster) if cluster else (a, b) for a, b, cluster in named]
