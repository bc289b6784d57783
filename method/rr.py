"""RRAttention: round-robin query sampling and Top-τ block selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask
from method.keep import RR_KEEP, KeepPolicy
from method.ops.checks import ESTIMATORS, check_choices, check_stride, uses_triton
from method.ops.rr_scores.torch import BY_LAYER, OFFSETS, block_scores
from method.ops.top_p.torch import SELECTORS, select_mask

SAMPLES = (*OFFSETS, "mean")
NO_REPEAT = (*BY_LAYER, "mean")
"""Samples that differ from layer to layer, or that PyTorch takes."""


@dataclass(frozen=True)
class RRAttention(Method):
    """RRAttention (arXiv 2602.05853, ACL 2026), a training-free block-sparse prefill.

    Rule. The prompt is cut into strides of ``S`` tokens. In every stride each head looks at one
    query, and the heads take turns: head ``h`` samples the token at offset ``h mod S``. The query
    is multiplied with the sum of each stride's keys, scaled by ``scale / S``; a causal softmax
    over strides follows, and the probabilities are added up to (query block, key block) scores.
    Per query block the highest-scored key blocks are kept until they hold a share τ of the
    score, and one more. Sink, diagonal and the last query block's whole row are always kept
    (:data:`method.keep.RR_KEEP`). Estimating costs O(L² / S²) per head.

    Defaults are the paper's conservative setting: S = 8, τ = 0.95, blocks of 128 (its aggressive
    setting is τ = 0.90). Head and block choices are per query head; KV heads are never repeated.

    Known departures:
        * Key sums are accumulated in fp32 and rounded once, as in the later GPU kernel (the first
          public implementation rounds to the input dtype after every addition); scores and sums
          of scores are never rounded to 16 bits.
        * A sample past the end of the prompt contributes nothing.
        * Chunked prefill, which the paper's code leaves dense, is supported: samples sit at
          absolute positions, so chunks that start at multiples of 128 choose the same blocks as
          an uncut prompt, the last row of each chunk apart.
        * τ = 1 is dense exactly.

    Controls. ``offset`` exchanges the round robin for another query sample while everything else
    stays the same: the point of comparison for the paper's claim that the heads should take turns.

    Attributes:
        tau: share of the estimated mass to keep, in (0, 1].
        stride: ``S``, one of 4, 8, 16, 32, 64.
        selector: "released" (what the released code computes: the diagonal pays first, and every
            row that is not full keeps one block beyond its share), "forced_first" (sink and
            diagonal pay first: what that code describes) or "top_p" (the later GPU kernel's rule).
            Which of them made the paper's tables is open.
        offset: "head" for ``h mod S`` (the released code); "reversed" for ``(S-1-h) mod S``;
            "head_layer" for ``(h + layer) mod S``; "random" for a fixed draw per layer and head; a
            number from 0 to ``S - 1`` for the same offset everywhere; "mean" for the mean of the
            stride's queries instead of one of them.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = RR_KEEP
    knob: ClassVar[Knob | None] = Knob("tau", 0.01, 1.0)

    tau: float = 0.95
    stride: int = 8
    selector: str = "released"
    offset: str | int = "head"
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"rr: tau={self.tau} is not in (0, 1], the share of mass to keep")
        check_stride("rr", self.stride)
        check_choices(
            "rr", self, selector=SELECTORS, offset=(*SAMPLES, *range(self.stride)), estimator=ESTIMATORS
        )

    @property
    def launches_only(self) -> bool:
        """So it is on a GPU, where all layers sample alike."""
        return self.tau < 1 and self.offset not in NO_REPEAT

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Estimate, then select; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.tau >= 1:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        scores = self.scores(query, key, scale=scale, layer=layer)
        return select_mask(scores, q_len, k_len, tau=self.tau, selector=self.selector, keep=keep)

    def scores(self, query: Tensor, key: Tensor, *, scale: float, layer: int = 0) -> Tensor:
        """Block scores ``[B, Hq, rows, columns]``, from the estimator that ``estimator`` names."""
        if not uses_triton(self.estimator, query):
            estimate: Callable[..., Tensor] = block_scores
        else:
            # Imported here so that the method can be used where Triton is not installed.
            from method.ops.rr_scores.triton import block_scores_triton

            estimate = block_scores_triton
        if self.offset == "mean":
            query = stride_means(query, self.stride, key.shape[2] - query.shape[2])
        return estimate(
            query,
            key,
            scale=scale,
            stride=self.stride,
            offset=0 if self.offset == "mean" else self.offset,
            layer=layer,
        )


def stride_means(query: Tensor, stride: int, shift: int) -> Tensor:
    """Every query replaced by the mean query of its stride: ``[B, Hq, Lq, D]``, same dtype.

    Strides lie at absolute positions, ``shift`` being the position of the first query; the two
    that the ends cut are means over what is left of them. A copy of the query: for controls only.
    """
    length, lead = query.shape[2], shift % stride
    padded = F.pad(query, (0, 0, lead, -(lead + length) % stride)).unflatten(2, (-1, stride))
    present = F.pad(query.new_ones(length), (lead, -(lead + length) % stride)).view(-1, stride)
    work = torch.promote_types(query.dtype, torch.float32)
    means = padded.sum(3, dtype=work) / present.sum(-1, dtype=work)[:, None]
    return means.to(query.dtype).repeat_interleave(stride, dim=2)[:, :, lead : lead + length]
