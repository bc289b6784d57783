"""What the two kernels of RRAttention's estimate are launched with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from method.blocks import BLOCK, num_blocks

LOG2_E = 1.4426950408889634

Fill = Callable[[Tensor, Tensor, Tensor], None]
"""Fills in the scores of a query (last dimension contiguous) and its mean keys."""


@dataclass(frozen=True)
class Estimate:
    """Sizes of an estimate by mean keys, and which queries it samples.

    Attributes:
        query_shape: ``B, Hq, Lq, D``.
        query_strides: of the query, the last dimension contiguous.
        pooled_shape: of the mean keys: ``B, Hkv, strides, D``.
        starts: int64 ``[Hq]``, first sampled token of every head.
        k_len: key tokens.
        stride: ``S``.
        scale: factor on the logits.
        dtype: of query and keys.
    """

    query_shape: tuple[int, ...]
    query_strides: tuple[int, ...]
    pooled_shape: tuple[int, ...]
    starts: Tensor
    k_len: int
    stride: int
    scale: float
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.starts.device

    @property
    def factor(self) -> float:
        """Factor on the logits for exponentials of base 2."""
        return self.scale * LOG2_E

    @property
    def scores_shape(self) -> tuple[int, ...]:
        """Of the scores: ``B, Hq, rows, columns``."""
        return *self.query_shape[:2], num_blocks(self.query_shape[2]), num_blocks(self.k_len)

    def sizes(self, samples: int) -> tuple[int, ...]:
        """The kernels' whole-number arguments from ``members`` to ``tiles`` of ``samples`` each."""
        batch, heads, rows, columns = self.scores_shape
        group, strides = heads // self.pooled_shape[1], self.pooled_shape[2]
        q_len = self.query_shape[2]
        tiles = triton.cdiv(rows * (BLOCK // self.stride), samples)
        sizes = heads, group, q_len, self.k_len - q_len, strides, rows, columns, tiles
        return batch * heads, *sizes

    def scratch(self, programs: int, samples: int, block_n: int, packed: int = 1) -> tuple[int, int]:
        """Floats of all programs' scratch, and the chunks of ``block_n`` strides that one's holds.

        A sample of a chunk has a block sum for each key block, ``packed`` to a float, and a maximum.
        """
        room, sums = triton.cdiv(self.pooled_shape[2], block_n), block_n * self.stride // BLOCK
        return programs * room * samples * (sums // packed + 1), room
