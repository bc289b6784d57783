"""What the numbers say, in three lines: which methods kept the dense score, which lost, which of the
two is open and how many samples would tell.

A method is judged over all its cells of one setup, each of equal weight. An interval alone misleads
where samples are few: five equal samples give an interval of no width. So equality is claimed only of
enough samples, and a loss only of more than a handful.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rr_bench.report.recovery import Pairs, Recovery, pooled_all

MARGIN = 2.0
"""Points around 100 % within which a recovery counts as kept, unless another margin is given."""

FEWEST = 6
"""Samples from which on a loss can be claimed: that all of five are worse has a chance of 6 % (sign
test, both sides)."""

NAMED = 3
"""Methods that one line names."""

TITLES = {
    "kept": "keeps the dense score within {margin:g} points, or is above it",
    "lost": "is below the dense score, beyond the 95 % interval",
    "undecided": "undecided",
}

_RESAMPLES = 2_000
_SLACK = 1e-9


@dataclass(frozen=True)
class Standing:
    """One method over all its cells of a setup.

    Attributes:
        setup: model and settings that the cells share.
        series: its label, with settings beside it where needed.
        found: recovery over the cells.
        density: mean of the cells', percent.
        cells: how many cells are behind it ...
        of: ... of how many rows.
        speedup: dense prefill time over its, geometric mean of the cells; NaN if not comparable.
        margin: points around 100 % within which it counts as kept.
        line: the method without its knob.
    """

    setup: str
    series: str
    found: Recovery
    density: float
    cells: int
    of: int
    speedup: float = math.nan
    margin: float = MARGIN
    line: str = ""

    @property
    def outcome(self) -> str:
        """See :func:`outcome`; undefined is undecided."""
        return outcome(self.found, self.margin) or "undecided"

    @property
    def behind(self) -> str:
        """How many cells, of how many."""
        return f"{self.cells}" if self.cells == self.of else f"{self.cells} of {self.of}"

    @property
    def text(self) -> str:
        """The numbers in words."""
        if math.isnan(self.found.value):
            return f"{self.series}: the dense score is 0"
        ends = "" if math.isnan(self.found.lo) else f" ({self.found.lo:.1f}–{self.found.hi:.1f})"
        text = f"{self.series} {self.found.value:.1f} %{ends} at density {self.density:.1f} %"
        text += f", {self.behind} cell{'s'[: self.of > 1]}"
        if self.outcome != "undecided":
            return text
        each, now = -(-needed(self.found, self.margin) // self.cells), -(-self.found.n // self.cells)
        return f"{text} of {now} samples where about {_round(each)} would tell"


def enough(margin: float) -> int:
    """Samples from which on equality can be claimed: of n samples of which none changed, up to 3 / n of
    all may still change (95 %, the rule of three).
    """
    return math.ceil(300 / margin)


def outcome(found: Recovery, margin: float = MARGIN) -> str:
    """``kept``, ``gained``, ``lost`` or ``undecided``; empty where recovery is undefined."""
    if math.isnan(found.value):
        return ""
    if math.isnan(found.lo):
        return "undecided"
    if abs(found.value - 100) <= margin:
        inside = found.lo >= 100 - margin - _SLACK and found.hi <= 100 + margin + _SLACK
        return "kept" if inside and found.n >= enough(margin) else "undecided"
    if found.n >= FEWEST and found.hi < 100 - _SLACK:
        return "lost"
    if found.n >= FEWEST and found.lo > 100 + _SLACK:
        return "gained"
    return "undecided"


def needed(found: Recovery, margin: float = MARGIN) -> int:
    """Samples that would decide if the recovery stayed and its interval shrank with their root."""
    half = 0.0 if math.isnan(found.lo) else (found.hi - found.lo) / 2
    off = abs(found.value - 100)
    least, room = (enough(margin), margin - off) if off <= margin else (FEWEST, off)
    shrunk = found.n * (half / max(room, 0.1)) ** 2
    return max(least, found.n + 1, math.ceil(shrunk))


def standings(
    frame: pd.DataFrame, pairs: Mapping[str, Pairs], margin: float = MARGIN
) -> list[Standing]:
    """Every sparse method that has samples beside dense ones, by setup and density.

    Args:
        frame: the summary's rows.
        pairs: by the rows' ``cell``, the scores behind a recovery.
        margin: points around 100 % within which a recovery counts as kept.
    """
    behind = frame[frame["cell"].isin(pairs.keys())]
    rows = frame[~frame["dense"]].groupby(["setup", "point"]).size().to_dict()
    groups = list(behind[~behind["dense"]].groupby(["setup", "point"]))
    recoveries = pooled_all([[pairs[cell] for cell in own["cell"]] for _, own in groups], _RESAMPLES)
    found = []
    for ((setup, point), own), recovery in zip(groups, recoveries, strict=True):
        density = float(own["density"].mean())
        speedup = float(np.exp(np.log(own["speedup"].astype(float)).mean()))
        sizes = len(own), rows[setup, point]
        line = str(own["line"].iloc[0])
        found.append(Standing(str(setup), str(point), recovery, density, *sizes, speedup, margin, line))
    return sorted(found, key=lambda one: (one.setup, one.density))


def verdict(found: Sequence[Standing]) -> list[str]:
    """Three lines per setup, the setup named where there are several."""
    if not found:
        return ["no verdict: no sparse method has samples beside those of dense attention"]
    setups = {one.setup: [other for other in found if other.setup == one.setup] for one in found}
    several = len(setups) > 1
    return [
        f"{setup}, {line}" if several else line
        for setup, members in setups.items()
        for line in _lines(members)
    ]


def _lines(found: Sequence[Standing]) -> list[str]:
    """The three lines. What has most cells comes first, then the least dense that kept its score, or
    the highest recovery.
    """
    groups: dict[str, list[Standing]] = {name: [] for name in TITLES}
    for one in found:
        groups["kept" if one.outcome == "gained" else one.outcome].append(one)
    groups["kept"].sort(key=lambda one: (-one.cells, one.density))
    for name in ("lost", "undecided"):
        groups[name].sort(key=lambda one: (-one.cells, -one.found.value))
    margin = found[0].margin
    return [f"{TITLES[name].format(margin=margin)}: {_named(group)}" for name, group in groups.items()]


def _named(group: Sequence[Standing]) -> str:
    more = f"; and {len(group) - NAMED} more" if len(group) > NAMED else ""
    return "; ".join(one.text for one in group[:NAMED]) + more or "none"


def _round(count: int) -> int:
    """Two significant digits, upwards."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
