"""Schema of the group ``latency``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEVELS = ("ceiling", "attention", "selection", "both", "layer", "prefill")


@dataclass
class LatencySettings:
    """Group ``latency``: what ``verb=latency`` times.

    Attributes:
        levels: some of ``LEVELS``, in the order in which they are measured.
        models: shapes with random weights: known names, or mappings of a shape's fields.
        captured: also time queries and keys of a prompt of ``model``.
        densities: of the masks that kernels are compared on.
        replay: densities of the masks that stand in for selections; layers take the first.
        prefill_methods: names of the methods of the level ``prefill``, which takes long; the first
            settings of each.
        calls: timed calls of each row.
        budget_ms: device time of a group of rows (one level, model and length), warm-up included;
            at least 3 calls are made.
        budget_s: seconds after which a level begins no new group: a number, or one for each level.
    """

    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    models: list[Any] = field(default_factory=lambda: ["llama31_8b", "qwen25_7b"])
    captured: bool = True
    densities: list[float] = field(default_factory=lambda: [1.0, 0.5, 0.35, 0.2])
    replay: list[float] = field(default_factory=lambda: [0.35, 0.5])
    prefill_methods: list[str] = field(default_factory=list)
    calls: int = 20
    budget_ms: float = 4000.0
    budget_s: Any = None

    def limit_s(self, level: str) -> float:
        """Seconds that a level may take before it begins no new group."""
        limit = self.budget_s.get(level) if isinstance(self.budget_s, Mapping) else self.budget_s
        return float("inf") if limit is None else float(limit)
