"""MInference's head patterns: what a file may say of a head, and the lines and tiles it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from method.ops.checks import uses_triton
from method.ops.vertical_slash import torch as native
from method.ops.vertical_slash.selection import device_numbers, profile, take_highest

LINES, A_SHAPE, BLOCKS = "vertical_and_slash", "stream_llm", "block_sparse"
PATTERNS = (LINES, A_SHAPE, BLOCKS)
TOP_BLOCKS = 100
FIRST_KEYS, NEAR_DISTANCES = 30, 100
"""Keys and distances that line heads always choose first, as far as their sizes reach."""
_LAST = 64

Head = tuple[str, int, int]
"""Pattern and its two sizes."""


@dataclass(frozen=True)
class LayerHeads:
    """The heads of one layer.

    Attributes:
        plan: pattern and scaled sizes of every head.
        ratio: factor on the 100 tiles of block-sparse heads.
        estimator: see :data:`method.ops.checks.ESTIMATORS`.
    """

    plan: list[Head]
    ratio: float
    estimator: str

    def of(self, kind: str) -> list[int]:
        """The heads that have a pattern."""
        return [head for head, (found, *_) in enumerate(self.plan) if found == kind]

    def line_sizes(self, members: list[int], k_len: int) -> tuple[list[int], list[int]]:
        """How many keys and distances each of some heads takes from a prompt."""
        vertical = [min(k_len, max(self.plan[head][1], FIRST_KEYS)) for head in members]
        return vertical, [min(k_len, max(self.plan[head][2], 50)) for head in members]

    def lines(
        self,
        query: Tensor,
        key: Tensor,
        scale: float,
        members: list[int],
        *,
        near: int = NEAR_DISTANCES,
    ) -> tuple[Tensor, Tensor]:
        """Chosen keys and distances, bool ``[B, members, Lk]`` each.

        The first 30 keys and the distances below ``near`` come before all others.
        """
        k_len, device = key.shape[2], key.device
        # Only the last queries matter, and their positions follow from the number of keys.
        sums = profile(query[:, :, -_LAST:], key, scale=scale, last=_LAST, estimator=self.estimator)
        if len(members) < query.shape[1]:
            index = head_index(members, device)
            sums = (sums[0].index_select(1, index), sums[1].index_select(1, index))
        at = torch.arange(k_len, device=device)
        # No sum exceeds 64: above that, the nearer one comes first among the forced.
        forced = 1000.0 - at
        scores = torch.stack(
            (torch.where(at < FIRST_KEYS, forced, sums[0]), torch.where(at < near, forced, sums[1]))
        )
        vertical, slash = self.line_sizes(members, k_len)
        counts = device_numbers((*vertical, *slash), device).view(2, 1, -1)
        triton = uses_triton(self.estimator, query)
        columns, slashes = take_highest(scores, counts, triton=triton)
        return columns, slashes

    def a_shapes(self, members: list[int], k_len: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sinks and windows ``[members, 1, 1]``; a prompt that fits into a window is dense."""
        pairs = [
            (self.plan[head][1], max(self.plan[head][2], 1))
            if k_len > self.plan[head][2]
            else (k_len, k_len)
            for head in members
        ]
        sizes = device_numbers(tuple(size for pair in pairs for size in pair), device)
        sink, window = sizes.long().view(-1, 2, 1, 1).unbind(1)
        return sink, window

    def tiles(self, query: Tensor, key: Tensor, members: list[int]) -> Tensor:
        """Chosen 64x64 tiles of block-sparse heads: bool ``[B, members, query tiles, key tiles]``."""
        group = query.shape[1] // key.shape[1]
        index = head_index(members, query.device)
        rows, columns = native.mean_tiles(query.index_select(1, index)), native.mean_tiles(key)
        logits = rows @ columns.index_select(1, index // group).transpose(-1, -2)
        visible = native.tile_causal(query.shape[2], key.shape[2], query.device)
        count = min(max(int(TOP_BLOCKS * self.ratio), 1), columns.shape[2])
        best = logits.masked_fill(~visible, -torch.inf).topk(count, dim=-1).indices
        return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, best, True) & visible


def head_index(members: list[int], device: torch.device) -> Tensor:
    """Indices of some heads on the device, int64."""
    return device_numbers(tuple(members), device).long()


def check_patterns(entry: Any, where: str) -> None:
    """Raise ``ValueError`` unless one layer of a pattern file can be used."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: an object of heads is needed, found {str(entry)[:60]}")
    for head, pattern in entry.items():
        fits = isinstance(pattern, list) and len(pattern) >= 3 and head.isdecimal()
        if not fits or not all(isinstance(size, int) and size >= 0 for size in pattern[1:3]):
            raise ValueError(
                f"{where}, head {head}: [pattern, size, size, score] is needed, found "
                f"{str(pattern)[:60]}"
            )
        if pattern[0] not in PATTERNS:
            raise ValueError(
                f"{where}, head {head}: unknown pattern {pattern[0]!r}; the patterns are "
                f"{', '.join(PATTERNS)}"
            )
