"""RRAttention's samples with better keys, and a block as good as its keenest query says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask, causal_map
from method.keep import RR_KEEP, KeepPolicy
from method.ops.checks import ESTIMATORS, check_choices, check_stride, uses_triton
from method.ops.rr_scores.torch import (
    BY_LAYER,
    KEYS,
    OFFSETS,
    OVER_SAMPLES,
    WITH_KERNEL,
    block_scores,
)
from method.ops.top_p.torch import SELECTORS, select_mask

RULES = (*SELECTORS, "relative")


@dataclass(frozen=True)
class RRPlus(Method):
    """RRAttention changed where it loses most on real models; no paper's method: ours.

    Rule. Of every stride of ``S`` tokens each head samples one query, and the heads take turns, as in
    :class:`method.rr.RRAttention`. A sampled query gets a causal softmax over the keys themselves,
    not over mean keys, and its probabilities are added up by key block. A key block is worth the
    *largest* share that any sample of the query block gives it: a sum lets the queries that do not
    care outvote the one that does. Per query block the best key blocks are kept until they hold a
    share τ of the row's total worth. Sink, diagonal and the last query block's whole row are always
    kept.

    Worths are no probabilities: a row of them adds up to something between 1 and 128 / S, the less
    its samples agree the more. τ is a share of that total, so that a row whose samples want different
    blocks keeps more of them.

    Cost per head: L² / S products and exponentials (``exact``), L² / S products and L² / S²
    exponentials (``largest``), L² / S² products (``mean``), twice that (``spread``).

    Presets. ``rr_plus`` is the precise one; ``rr_plus_fast`` costs as much as RRAttention and keeps
    only the maximum over the samples. Both were chosen on Qwen2.5-Coder-0.5B at 16K (`recall_prefill`,
    8 prompts of a development seed), at about 9 % of the blocks: the maximum kept more than the sum
    (67 against 59 points), exact keys more than the largest of a stride (45 against 42), stride 8 more
    than 16 (67 against 62) at twice the cost, and the released selector, which keeps a block more in
    every row, more than top_p (62 against 45). What did not help is gone: a threshold on the worth
    itself, and keeping a share of the summed mass as well.

    Attributes:
        tau: share of a row's worth to keep, in (0, 1]; under "relative" a block needs 1 - τ of the
            row's best worth. 1 is dense exactly.
        stride: ``S``, one of 4, 8, 16, 32, 64.
        keys: "exact", "largest" (of each stride), "mean" (of each stride) or "spread"; see
            :func:`method.ops.rr_scores.torch.block_scores`. "spread" has no Triton kernel: PyTorch
            estimates by it on a GPU as well.
        spread: standard deviations added under ``keys: spread``.
        over_samples: "max" or "sum" over the samples of a query block.
        selector: "released", "top_p" or "forced_first" (:mod:`method.ops.top_p.torch`), or "relative":
            a threshold in place of a share.
        offset: as for :class:`method.rr.RRAttention`, "mean" apart.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = RR_KEEP
    knob: ClassVar[Knob | None] = Knob("tau", 0.01, 1.0)
    version: ClassVar[int] = 2

    tau: float = 0.8
    stride: int = 16
    keys: str = "exact"
    spread: float = 2.0
    over_samples: str = "max"
    selector: str = "released"
    offset: str | int = "head"
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"rr_plus: tau={self.tau} is not in (0, 1], the share of worth to keep")
        if not self.spread >= 0:
            raise ValueError(f"rr_plus: spread={self.spread} is negative")
        check_stride("rr_plus", self.stride)
        if self.estimator == "triton" and not self.has_kernel:
            raise ValueError(
                f"rr_plus: estimator='triton' has no kernel for keys={self.keys!r} (it has for "
                f"{', '.join(WITH_KERNEL)}); use estimator=auto"
            )
        check_choices(
            "rr_plus",
            self,
            keys=KEYS,
            over_samples=OVER_SAMPLES,
            selector=RULES,
            offset=(*OFFSETS, *range(self.stride)),
            estimator=ESTIMATORS,
        )

    @property
    def has_kernel(self) -> bool:
        """So it has, except for ``keys: spread``."""
        return self.keys in WITH_KERNEL

    @property
    def launches_only(self) -> bool:
        """So it is on a GPU by mean keys; exact ones are estimated by launches that are made anew."""
        alike = self.offset not in BY_LAYER and self.selector != "relative"
        return alike and self.keys == "mean" and self.tau < 1

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Estimate, then select; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.tau >= 1:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        worth = self.scores(query, key, scale=scale, layer=layer)
        if self.selector != "relative":
            return select_mask(worth, q_len, k_len, tau=self.tau, selector=self.selector, keep=keep)
        worth = worth / worth.amax(-1, keepdim=True)
        return threshold_mask(worth, q_len, k_len, least=1 - self.tau, keep=keep)

    def scores(self, query: Tensor, key: Tensor, *, scale: float, layer: int = 0) -> Tensor:
        """Block scores ``[B, Hq, rows, columns]``, from the estimator that ``estimator`` names."""
        options: dict[str, Any] = {
            "scale": scale,
            "stride": self.stride,
            "offset": self.offset,
            "layer": layer,
            "over_samples": self.over_samples,
        }
        if not self.has_kernel or not uses_triton(self.estimator, query):
            return block_scores(query, key, keys=self.keys, spread=self.spread, **options)
        # Imported here so that the method can be used where Triton is not installed.
        from method.ops.rr_scores.triton import block_scores_triton

        return block_scores_triton(query, key, keys=self.keys, **options)


def threshold_mask(
    scores: Tensor, q_len: int, k_len: int, *, least: float, keep: KeepPolicy
) -> BlockMask:
    """Blocks with a score of at least ``least``, and those that ``keep`` names.

    ``scores`` is ``[B, Hq, rows, columns]``; one that is no positive number is never kept for itself.
    """
    chosen = (scores >= least) & (scores > 0) & causal_map(q_len, k_len, scores.device)
    return BlockMask.from_map(chosen | keep.forced(q_len, k_len, scores.device), q_len, k_len)
