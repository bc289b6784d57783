"""CoSA: blocks by what they offer a query stride at best, those that hold a stride's best first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BLOCK, BlockMask, causal_map
from method.keep import KeepPolicy
from method.ops.antidiagonal.torch import antidiagonal_peaks
from method.ops.checks import ESTIMATORS, check_choices, check_stride, uses_triton


@dataclass(frozen=True)
class CoSA(Method):
    """CoSA's first stage (arXiv 2607.25291): selection only, without the skips inside its kernel.

    Rule. Cells of ``S x S`` tokens get logits as XAttention's do. Of each query stride the largest
    cell of every key block is compared with the stride's largest cell: the exponential of the
    difference is the block's offer, 1 where the stride has its best. Offers are summed over the
    strides of a query block. Blocks come in an order, the always-kept ones first, then those that
    hold the best of any stride, each group by its sum; one is kept while the blocks before it hold
    less than a share ``topp`` of the row's total. Estimating costs O(L² / S) per head.

    Defaults: S = 8, topp = 0.95, as in the released configuration (its code's own default is 0.8).

    Known departures:
        * The second stage, which drops more blocks inside the attention kernel, was never
          released: this is selection alone.
        * Logits stay in fp32; the released code rounds them to the input's dtype.
        * Fewer queries than keys are supported, at absolute positions.
        * topp = 1 is dense exactly.

    Blocks are ordered by PyTorch's sort on a GPU too, which its authors' kernel may do faster.

    Attributes:
        topp: share of the offers to keep, in (0, 1].
        stride: ``S``, one of 4, 8, 16, 32, 64.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("topp", 0.01, 1.0)

    topp: float = 0.95
    stride: int = 8
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.topp <= 1:
            raise ValueError(f"cosa: topp={self.topp} is not in (0, 1], the share of offers to keep")
        check_stride("cosa", self.stride)
        check_choices("cosa", self, estimator=ESTIMATORS)

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Estimate, order, and cut; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.topp >= 1:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        mass, best = self.offers(query, key, scale=scale)
        first = keep.columns(q_len, k_len, query.device)
        seen = causal_map(q_len, k_len, query.device)
        order = ranking(mass, best, first, seen)
        ranked = mass.gather(-1, order).double()
        before = ranked.cumsum(-1) - ranked
        taken = before < self.topp * ranked.sum(-1, keepdim=True)
        chosen = torch.zeros_like(taken).scatter_(-1, order, taken) & seen
        return BlockMask.from_map(chosen | keep.forced(q_len, k_len, query.device), q_len, k_len)

    def offers(self, query: Tensor, key: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        """See :func:`method.ops.antidiagonal.torch.antidiagonal_peaks`; by ``estimator``."""
        if not uses_triton(self.estimator, query):
            return antidiagonal_peaks(query, key, scale=scale, stride=self.stride)
        # Imported here so that the method can be used where Triton is not installed.
        from method.ops.antidiagonal.triton import antidiagonal_peaks_triton

        return antidiagonal_peaks_triton(query, key, scale=scale, stride=self.stride)


def ranking(mass: Tensor, best: Tensor, first: Tensor, seen: Tensor) -> Tensor:
    """Key blocks in the order they are taken: int64 of ``mass``'s shape, unseen ones last.

    Args:
        mass: offers, ``[..., rows, columns]``; a row sums to at most 128 a column.
        best: blocks that hold a stride's best, of that shape.
        first: blocks that come before all others, ``[rows, columns]``.
        seen: causal blocks, ``[rows, columns]``.
    """
    above = BLOCK * mass.shape[-1]  # more than any row holds
    priority = mass + above * best + 2 * above * first
    return priority.masked_fill(~seen, -1).sort(dim=-1, descending=True, stable=True).indices
