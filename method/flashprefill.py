"""FlashPrefill: queries against mean keys, and a threshold below the best block in place of sorting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask, causal_map, visible_blocks
from method.keep import KeepPolicy
from method.ops.block_energy.torch import block_energies
from method.ops.checks import ESTIMATORS, check_choices, uses_triton


@dataclass(frozen=True)
class FlashPrefill(Method):
    """FlashPrefill (arXiv 2603.06199, version 1), a training-free block-sparse prefill.

    Rule. Every query of a block is multiplied with the mean key of each key block that lies wholly
    before it, and the exponentials are summed over the block's queries, without a softmax of each
    query. Key blocks whose sum is at least α times the row's largest are kept, besides ``sink``
    first blocks, a ``window`` of blocks that ends at the diagonal, and all of the ``last_rows``
    last rows. Estimating costs O(L² / 128) per head.

    Defaults: the released code's, α of Qwen2 and Qwen2.5 (Llama-3.1 0.18, Qwen3 0.12, Qwen2.5-VL 0.1).

    Known departures:
        * Rows that pad the last block count for nothing. The released code lets each add a logit of
          0 to every key block; under its defaults that row is dense anyway.
        * Fewer queries than keys are supported, at absolute positions; the last rows of each chunk
          are dense.
        * α = 0 is dense exactly.

    Attributes:
        alpha: share of the row's largest sum that a block needs, in [0, 1].
        sink: first key blocks, always kept.
        window: key blocks up to the diagonal, always kept.
        last_rows: last query blocks of a prompt, dense.
        min_budget: so many of the highest blocks of a row are kept in any case.
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=True)
    knob: ClassVar[Knob | None] = Knob("alpha", 1.0, 0.0)
    causal_choice: ClassVar[bool] = False

    alpha: float = 0.08
    sink: int = 2
    window: int = 4
    last_rows: int = 2
    min_budget: int = 0
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(
                f"flashprefill: alpha={self.alpha} is not in [0, 1], the share of the largest energy"
            )
        for name in ("sink", "window", "last_rows", "min_budget"):
            if getattr(self, name) < 0:
                raise ValueError(f"flashprefill: {name}={getattr(self, name)} is negative")
        check_choices("flashprefill", self, estimator=ESTIMATORS)

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Estimate, then compare; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.alpha == 0:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        energies = self.energies(query, key, scale=scale)
        best = energies.amax(-1, keepdim=True)
        chosen = (energies >= best + math.log(self.alpha)) & energies.isfinite()
        if self.min_budget:
            top = energies.topk(min(self.min_budget, energies.shape[-1]), -1).indices
            chosen = chosen.scatter(-1, top, True)
        always = self._always(q_len, k_len, query.device) | keep.forced(q_len, k_len, query.device)
        seen = causal_map(q_len, k_len, query.device)
        return BlockMask.from_map((chosen | always) & seen, q_len, k_len)

    def _always(self, q_len: int, k_len: int, device: torch.device) -> Tensor:
        """Sink, window and last rows: bool ``[rows, columns]``, before causality."""
        seen = causal_map(q_len, k_len, device)
        column = torch.arange(seen.shape[1], device=device)
        newest = visible_blocks(q_len, k_len, device)[:, None] - 1
        always = (column < self.sink) | (column > newest - self.window)
        always[max(0, len(always) - self.last_rows) :] = True
        return always

    def energies(self, query: Tensor, key: Tensor, *, scale: float) -> Tensor:
        """Energies ``[B, Hq, rows, columns]``, from the estimator that ``estimator`` names."""
        if not uses_triton(self.estimator, query):
            estimate: Callable[..., Tensor] = block_energies
        else:
            # Imported here so that the method can be used where Triton is not installed.
            from method.ops.block_energy.triton import block_energies_triton

            estimate = block_energies_triton
        return estimate(query, key, scale=scale)
