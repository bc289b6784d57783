"""Which cell comes next: the order of a run, in one process or in several."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from rr_bench.plan.cells import Cell

RETRY_S = 2.0
"""Seconds until a cell that another process writes is tried again."""

Point = tuple[str, int]
"""Task and length: cells of one point share their rows."""


@dataclass
class Work:
    """A cell and what is left of it.

    Attributes:
        cell: what to run.
        left: samples that the store does not have yet.
        tries: how many workers ended while they ran it.
    """

    cell: Cell
    left: int
    tries: int = 0

    @property
    def point(self) -> Point:
        """Task and length."""
        return self.cell.task.name, self.cell.length

    @property
    def tokens(self) -> int:
        """What it is expected to cost: prompt tokens left."""
        return self.left * self.cell.length


class Agenda:
    """Cells to run, each given out once; one that is put back comes again later.

    Args:
        work: cells in the plan's order, which is kept.
        longest_first: give out the costliest first instead, so that workers end at about one time. A
            worker still stays with the rows it has loaded while there are cells for them, and of equal
            costs the rows that fewer workers have taken come first.
    """

    def __init__(self, work: Iterable[Work], *, longest_first: bool = False) -> None:
        self._ready: dict[Point, deque[Work]] = {}
        self._later: list[tuple[float, Work]] = []
        self._given: Counter[Point] = Counter()
        self._longest_first = longest_first
        for one in work:
            self._ready.setdefault(one.point, deque()).append(one)

    def __len__(self) -> int:
        return sum(map(len, self._ready.values())) + len(self._later)

    def take(self, loaded: Point | None = None) -> Work | None:
        """The next cell; ``None`` if there is none, or none yet.

        Args:
            loaded: task and length of the rows that the worker holds.
        """
        self._wake()
        if not self._ready:
            return None
        point = loaded if loaded in self._ready else self._next_point()
        work = self._ready[point].popleft()
        self._given[point] += 1
        if not self._ready[point]:
            del self._ready[point]
        return work

    def put_back(self, work: Work, delay: float | None = None) -> None:
        """Take a cell back, to be given out again ``delay`` seconds later, behind the others."""
        self._later.append((time.monotonic() + (RETRY_S if delay is None else delay), work))

    def _next_point(self) -> Point:
        if not self._longest_first:
            return next(iter(self._ready))
        return min(self._ready, key=lambda point: (-self._ready[point][0].tokens, self._given[point]))

    def _wake(self) -> None:
        """Make cells ready whose time has come."""
        now = time.monotonic()
        for due, work in self._later:
            if due <= now:
                self._ready.setdefault(work.point, deque()).append(work)
        self._later = [(due, work) for due, work in self._later if due > now]
