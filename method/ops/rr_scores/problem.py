"""What the two kernels of RRAttention's estimate are launched with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from method.blocks import BLOCK

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Estimate:
    """Arguments that were checked, and keys that were pooled.

    Attributes:
        query: ``[B, Hq, Lq, D]``, the last dimension contiguous.
        pooled: mean keys ``[B, Hkv, strides, D]``.
        starts: int64 ``[Hq]``, first sampled token of every head.
        scores: fp32 ``[B, Hq, rows, columns]``, to be filled.
        shift: key position of the first query.
        stride: ``S``.
        scale: factor on the logits.
    """

    query: Tensor
    pooled: Tensor
    starts: Tensor
    scores: Tensor
    shift: int
    stride: int
    scale: float

    @property
    def factor(self) -> float:
        """Factor on the logits for exponentials of base 2."""
        return self.scale * LOG2_E

    def sizes(self, samples: int) -> tuple[int, ...]:
        """The kernels' whole-number arguments from ``members`` to ``tiles`` of ``samples`` each."""
        batch, heads, q_len, _ = self.query.shape
        rows, columns = self.scores.shape[2:]
        group, strides = heads // self.pooled.shape[1], self.pooled.shape[2]
        tiles = triton.cdiv(rows * (BLOCK // self.stride), samples)
        return batch * heads, heads, group, q_len, self.shift, strides, rows, columns, tiles

    def scratch(self, programs: int, samples: int, block_n: int) -> tuple[Tensor, int]:
        """Scratch of all programs, and the chunks of ``block_n`` strides that one's holds."""
        room = triton.cdiv(self.pooled.shape[2], block_n)
        each = room * samples * (block_n * self.stride // BLOCK + 1)
        return self.query.new_empty(programs * each, dtype=torch.float32), room
