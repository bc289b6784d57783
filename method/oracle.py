"""Bounds: Top-τ selection on the true attention mass of every block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask
from method.keep import KeepPolicy
from method.ops.antidiagonal.torch import REDUCTIONS, antidiagonal_scores
from method.ops.checks import ESTIMATORS, check_choices, uses_triton
from method.ops.top_p.torch import SELECTORS, select_mask


@dataclass(frozen=True)
class Oracle(Method):
    """What block selection could do with a perfect estimate; no method to use, but to measure by.

    Rule. The exact causal softmax is computed for every query, and its mass added up by key
    block. The queries of a block are reduced to one score, by their sum or by their maximum, and
    the highest-scored key blocks are kept until they hold a share τ of the row's total.

    The sum is what every estimator here approximates: it loses least attention mass on average. A
    single query that needs a block nobody else looks at (a retrieval) is outvoted under it; the
    maximum keeps that block. The gap between the two is not an estimation error.

    Defaults: sum, τ = 0.95, plain top-p, sink and diagonal kept. No paper's method: ours.

    Costs more than dense attention, and at most 1 GiB of intermediate sums where one head fits.

    Attributes:
        tau: share of the mass to keep, in (0, 1].
        reduction: "sum" or "max" over the queries of a block.
        selector: see :data:`method.ops.top_p.torch.SELECTORS`.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("tau", 0.01, 1.0)

    tau: float = 0.95
    reduction: str = "sum"
    selector: str = "top_p"
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"oracle: tau={self.tau} is not in (0, 1], the share of mass to keep")
        check_choices("oracle", self, reduction=REDUCTIONS, selector=SELECTORS, estimator=ESTIMATORS)

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Compute the mass, then select; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.tau >= 1:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        mass = self.mass(query, key, scale=scale)
        return select_mask(mass, q_len, k_len, tau=self.tau, selector=self.selector, keep=keep)

    def mass(self, query: Tensor, key: Tensor, *, scale: float) -> Tensor:
        """Exact block mass ``[B, Hq, rows, columns]``: an antidiagonal estimate at stride 1."""
        if not uses_triton(self.estimator, query):
            estimate: Callable[..., Tensor] = antidiagonal_scores
        else:
            # Imported here so that the method can be used where Triton is not installed.
            from method.ops.antidiagonal.triton import antidiagonal_scores_triton

            estimate = antidiagonal_scores_triton
        return estimate(query, key, scale=scale, stride=1, reduction=self.reduction)
