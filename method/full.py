"""The dense baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from method.base import Method
from method.blocks import BlockMask
from method.keep import NO_KEEP, KeepPolicy


@dataclass(frozen=True)
class FullAttention(Method):
    """Exact causal attention: density 1, the score that recovery is measured against.

    The executor sends it to the best dense kernel and reports which one; :meth:`select` states
    the same thing as a block mask, so that the block kernels can be compared with it.
    """

    paper_keep: ClassVar[KeepPolicy] = NO_KEEP
    dense: ClassVar[bool] = True

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Every block that holds a visible token; the arguments only give the shapes."""
        batch, heads, q_len, _ = query.shape
        return BlockMask.causal(batch, heads, q_len, key.shape[2], query.device)
