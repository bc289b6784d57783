"""What a run will cost before it starts: prompts, tokens, and hours where the store can tell.

Seconds come from the store's own samples of the same model, method and length. What was not measured
yet is not guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rr_bench.plan.cells import Cell
from rr_bench.store.reading import is_store, read_store
from rr_bench.tasks.helmet_table import DATASETS

Point = tuple[str, str, int]
"""Fingerprint of the model, method label, length."""


@dataclass
class Cost:
    """What some cells will take.

    Attributes:
        cells: how many.
        prompts: samples left.
        tokens: of all these prompts.
        seconds: of those prompts whose kind the store has timed.
        untimed: prompts of the others.
    """

    cells: int = 0
    prompts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    untimed: int = 0

    def add(self, cell: Cell, prompts: int, each: float | None) -> None:
        """Add a cell with ``prompts`` samples left, of ``each`` seconds if that is known."""
        self.cells += 1
        self.prompts += prompts
        self.tokens += prompts * cell.length
        self.seconds += prompts * (each or 0.0)
        self.untimed += prompts if each is None else 0

    @property
    def hours(self) -> float | None:
        """Hours of what is timed; ``None`` if nothing is."""
        return None if self.prompts and self.untimed == self.prompts else self.seconds / 3600


def wanted_rows(cell: Cell, samples: int) -> int:
    """Rows of a cell: what is asked for, or all of HELMET's official sample if that is less."""
    official = cell.settings["data"]["source"] == "helmet" and cell.task.name in DATASETS
    return min(samples, DATASETS[cell.task.name].rows) if official else samples


def measured_seconds(out: str | Path) -> dict[Point, float]:
    """Median seconds of a sample, prefill and decode, of what a store holds.

    Samples during which a kernel was compiled do not count: the next ones will not take as long.
    """
    found: dict[Point, list[float]] = defaultdict(list)
    cells = read_store(out)[0] if is_store(out) else []
    for cell in cells:
        point = str(cell.info.settings["model"]), cell.info.method["label"], cell.info.length
        found[point] += cell.columns.seconds()
    return {point: median(seconds) for point, seconds in found.items() if seconds}


def costs(work: Sequence[tuple[Cell, int]], out: str | Path) -> dict[int, Cost]:
    """What cells with samples left will take, by length.

    Args:
        work: cells, and how many samples each has left.
        out: the store, whose own samples say how long one takes.
    """
    known = measured_seconds(out)
    found: dict[int, Cost] = defaultdict(Cost)
    for cell, left in work:
        point = cell.model.fingerprint, cell.method.label, cell.length
        found[cell.length].add(cell, left, known.get(point))
    return dict(sorted(found.items()))


def cost_line(work: Sequence[tuple[Cell, int]], out: str | Path) -> str:
    """The estimate for cells with samples left, in one line."""
    parts = costs(work, out).values()
    prompts, tokens = sum(one.prompts for one in parts), sum(one.tokens for one in parts)
    untimed = sum(one.untimed for one in parts)
    line = f"estimate: {prompts:,} prompts, {tokens / 1e6:,.1f} M tokens"
    if untimed == prompts:
        return f"{line}; hours unknown until some are measured"
    rest = f", {untimed:,} prompts of unmeasured cells not counted" if untimed else ""
    return f"{line}, {sum(one.seconds for one in parts) / 3600:,.2f} hours{rest}"
