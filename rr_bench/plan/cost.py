"""What a run will cost before it starts: prompts, tokens, and hours where the store can tell.

Seconds come from the store's own samples of the same model, method and length. What was not measured
yet is not guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rr_bench.plan.cells import Cell
from rr_bench.store.reading import is_store, read_store
from rr_bench.tasks.helmet_table import DATASETS

Point = tuple[str, str, int]
"""Fingerprint of the model, method label, length."""


def wanted_rows(cell: Cell, samples: int) -> int:
    """Rows of a cell: what is asked for, or all of HELMET's official sample if that is less."""
    official = cell.settings["data"]["source"] == "helmet" and cell.task.name in DATASETS
    return min(samples, DATASETS[cell.task.name].rows) if official else samples


def measured_seconds(out: str | Path) -> dict[Point, float]:
    """Median seconds of a sample, prefill and decode, of what a store holds."""
    found: dict[Point, list[float]] = defaultdict(list)
    cells = read_store(out)[0] if is_store(out) else []
    for cell in cells:
        point = str(cell.info.settings["model"]), cell.info.method["label"], cell.info.length
        found[point] += [
            sample.prefill_s + (sample.decode_s or 0.0)
            for sample in cell.samples
            if sample.prefill_s is not None
        ]
    return {point: median(seconds) for point, seconds in found.items() if seconds}


def cost_line(work: Sequence[tuple[Cell, int]], out: str | Path) -> str:
    """The estimate for cells with samples left, in one line."""
    known = measured_seconds(out)
    points = [((c.model.fingerprint, c.method.label, c.length), c.length, n) for c, n in work]
    prompts = sum(count for *_, count in points)
    tokens = sum(length * count for _, length, count in points)
    line = f"estimate: {prompts:,} prompts, {tokens / 1e6:,.1f} M tokens"
    unknown = sum(count for point, _, count in points if point not in known)
    hours = sum(known.get(point, 0.0) * count for point, _, count in points) / 3600
    if unknown == prompts:
        return f"{line}; hours unknown until some are measured"
    rest = f", {unknown:,} prompts of unmeasured cells not counted" if unknown else ""
    return f"{line}, {hours:,.2f} hours{rest}"
