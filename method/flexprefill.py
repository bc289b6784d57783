"""FlexPrefill: per-head budgets from the last queries, and a pattern for every head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BLOCK, BlockMask, causal_map, num_blocks, visible_blocks
from method.keep import KeepPolicy
from method.ops.checks import ESTIMATORS, check_choices, uses_triton
from method.ops.pooled.torch import block_means, pooled_map, pooled_map_triton
from method.ops.vertical_slash.selection import (
    line_mask,
    profile,
    take_highest,
    tokens_within,
)


@dataclass(frozen=True)
class FlexPrefill(Method):
    """FlexPrefill (arXiv 2502.20766, ICLR 2025), a training-free sparse prefill.

    Rule. The attention of the last 128 queries over all keys is computed exactly. Added up by key
    it is the vertical profile, by distance the slash profile. In each, the tokens needed for a
    share γ of the mass are counted, and the head may keep one block more than 128ths of that
    count, at least ``min_budget`` and at most ``max_budget`` tokens. Which blocks: those with the
    most mass after adding up the profile block by block, the first key block and the main
    diagonal always among them. A kept block of the slash profile is a whole block diagonal.

    A head is query-aware instead if blocks can be judged by pooled vectors: the softmax of the mean
    last query over mean keys is compared with the true mass of the last queries, and the head is
    query-aware if the square root of their Jensen-Shannon divergence is below ``tau_js``. Such a
    head takes, over all query blocks at once, the highest entries of the pooled attention map up to
    a share γ of its total, and a vertical-slash pattern of ``min_budget`` beside it.

    γ is no guarantee of mass: the tokens that hold it decide how many blocks are kept, and these
    may lie in more blocks than that.

    Defaults are the authors': γ = 0.95 (for Llama-3.1-8B and GLM-4-9B; 0.9 for Yi and Qwen2),
    ``tau_js`` 0.1, ``min_budget`` 1024 tokens. Comparisons by others run it without a minimum
    (``min_budget: null``, one block), which keeps far less: RRAttention's with ``tau_js`` 0.1 and
    γ = 0.95, which is the preset ``flexprefill_no_minimum``; XAttention's evaluation code with
    ``tau_js`` 0 and γ = 0.9. Prompts that two blocks or ``min_budget`` cover are dense.

    Known departures:
        * Logits and profiles stay in fp32 (bf16 logits in the authors' code).
        * Fewer queries than keys are supported, with the profile taken from the last of them.
        * A block is 128 tokens; the authors also offer smaller ones.
        * γ = 1 without ``max_budget`` is dense exactly, and with it so are query-aware heads.
        * A ``max_budget`` beyond the prompt is an error, where the authors' code cuts it down. With
          chunked prefill that goes for the first chunk.
        * Densities are counted over the causal blocks, the authors' over the whole square.

    Attributes:
        gamma: share of the mass, in (0, 1].
        tau_js: heads below this distance are query-aware; 0 for none.
        min_budget: tokens, rounded up to blocks, that each direction keeps at least; None for one
            block.
        max_budget: tokens that each direction keeps at most, no more than there are keys; None for
            no limit.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("gamma", 0.01, 1.0)
    causal_choice: ClassVar[bool] = False

    gamma: float = 0.95
    tau_js: float = 0.1
    min_budget: int | None = 1024
    max_budget: int | None = None
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(
                f"flexprefill: gamma={self.gamma} is not in (0, 1], the share of mass to count"
            )
        if not self.tau_js >= 0:
            raise ValueError(f"flexprefill: tau_js={self.tau_js} is negative; 0 turns the test off")
        for name in ("min_budget", "max_budget"):
            budget = getattr(self, name)
            if budget is not None and budget < 1:
                raise ValueError(f"flexprefill: {name}={budget} is not a number of tokens above 0")
        if self.max_budget is not None and self.max_budget < (self.min_budget or 1):
            raise ValueError(
                f"flexprefill: max_budget={self.max_budget} is below min_budget={self.min_budget}"
            )
        check_choices("flexprefill", self, estimator=ESTIMATORS)

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Profile, budget, choose; see :meth:`method.base.Method.select`.

        Raises:
            ValueError: ``max_budget`` is more than there are keys.
        """
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.max_budget is not None and self.max_budget > k_len:
            raise ValueError(
                f"flexprefill: max_budget={self.max_budget} is more than the {k_len} tokens there are, "
                "so it would limit nothing; use max_budget=null for no limit"
            )
        least = num_blocks(self.min_budget or 1)
        dense = self.gamma >= 1 and self.max_budget is None
        if dense or k_len <= max(2, least) * BLOCK:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        triton = uses_triton(self.estimator, query)
        lines, pooled, aware = self._lines(query, key, scale, least, triton)
        newest = visible_blocks(q_len, k_len, query.device) - 1
        others = None
        if self.tau_js > 0:
            others = self._pooled_map(query, pooled, aware, scale, k_len, triton)
        return line_mask(
            lines[0], lines[1], newest, q_len, k_len, keep, others=others, flags=aware, triton=triton
        )

    def _lines(
        self, query: Tensor, key: Tensor, scale: float, least: int, triton: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Block lines, mean keys, and which heads are query-aware.

        Returns:
            bool ``[2, B, Hq, columns]`` for columns and diagonals, ``[B, Hkv, columns, D]``, and bool
            ``[B, Hq]``.
        """
        q_len, k_len = query.shape[2], key.shape[2]
        profiles = profile(query, key, scale=scale, last=BLOCK, estimator=self.estimator)
        shares = torch.stack(profiles) / min(BLOCK, q_len)
        vertical = pool_sums(shares[0])
        # The profile counts distances from the far end, and the last, ragged piece is the nearest.
        slash = pool_sums(shares[1].flip(-1)).flip(-1)
        most = num_blocks(self.max_budget or k_len)
        budgets = blocks_for(shares, self.gamma, triton=triton).clamp(least, most)
        aware = torch.zeros(query.shape[:2], dtype=torch.bool, device=query.device)
        pooled = block_means(key, triton=triton)
        if self.tau_js > 0:
            aware = self._distance(query, pooled, vertical, scale) < self.tau_js
            budgets = budgets.masked_fill(aware, least)
        scores = torch.stack((vertical, slash))
        scores[..., 0] = torch.inf
        return take_highest(scores, budgets), pooled, aware

    def _pooled_map(
        self, query: Tensor, pooled: Tensor, aware: Tensor, scale: float, k_len: int, triton: bool
    ) -> Tensor:
        """Blocks of the query-aware heads: bool ``[B, Hq, rows, columns]``, others unspecified."""
        q_len = query.shape[2]
        causal = causal_map(q_len, k_len, query.device)
        if self.gamma >= 1:
            return causal.expand(*aware.shape, -1, -1)
        if triton:
            rows = block_means(query, aware, triton=True)
            return pooled_map_triton(rows, pooled, aware, scale, self.gamma, q_len, k_len)
        others = torch.zeros(*aware.shape, *causal.shape, dtype=torch.bool, device=query.device)
        item, head = aware.nonzero(as_tuple=True)
        if len(item):
            rows = block_means(query[item, head][:, None], triton=False)[:, 0]
            columns = pooled[item, head // (query.shape[1] // pooled.shape[1])]
            others[item, head] = pooled_map(rows, columns, scale, self.gamma, q_len, k_len)
        return others

    def _distance(self, query: Tensor, pooled: Tensor, vertical: Tensor, scale: float) -> Tensor:
        """How far the pooled guess is from the true block mass of the last queries: ``[B, Hq]``.

        A block without any mass gives NaN, which counts as far, as in the authors' code.
        """
        batch, heads = query.shape[:2]
        mean = query[:, :, -BLOCK:].to(pooled.dtype).mean(2)
        grouped = mean.view(batch, pooled.shape[1], -1, mean.shape[-1])
        guess = ((grouped @ pooled.transpose(-1, -2)) * scale).softmax(-1).view(batch, heads, -1)
        middle = (guess + vertical) / 2
        return sum(
            (0.5 * (part * (part / middle).log()).sum(-1) for part in (guess, vertical)),
            torch.zeros_like(middle[..., 0]),
        ).sqrt()


def blocks_for(profile: Tensor, gamma: float, *, triton: bool = False) -> Tensor:
    """Blocks a head may keep: int64 ``[...]`` for profiles ``[..., tokens]`` that sum to 1.

    The tokens that hold a share ``gamma``, the one that crosses it included, over 128, plus one.
    """
    return (1 + tokens_within(profile, gamma, triton=triton)) // BLOCK + 1


def pool_sums(profile: Tensor) -> Tensor:
    """Sums over blocks of 128 from index 0: ``[..., ceil(tokens / 128)]``."""
    ragged = -profile.shape[-1] % BLOCK
    padded = F.pad(profile, (0, ragged)) if ragged else profile
    return padded.unflatten(-1, (-1, BLOCK)).sum(-1)
