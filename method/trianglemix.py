"""TriangleMix: dense early layers, an A-shape with dense last rows in the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BLOCK, BlockMask, causal_map, num_blocks
from method.keep import KeepPolicy
from method.streaming import a_shape_map, shared_mask


@dataclass(frozen=True)
class TriangleMix(Method):
    """TriangleMix (arXiv 2507.21526), a static sparse prefill: the pattern depends on nothing.

    Rule. Layers before ``first_layer`` are dense. In the others every query attends to the first
    ``sink`` tokens and the ``window`` newest ones, and the last ``last`` queries to everything:
    what is left out is the middle of the triangle, which the paper finds to matter in early
    layers only. Costs no estimate at all: the "do nothing clever" control.

    Defaults are those of the MInference repository, where the authors keep their code: last 128,
    sink 8, window 512, from layer 16 of Llama-3.1-8B's 32. For Qwen2.5-7B they begin at layer 20 of
    28. Another model needs a ``first_layer`` of its own, which no fixed share of its depth gives.

    Known departures:
        * Whole blocks are computed: a block is kept if any of its tokens is in the pattern for any
          query of the row. Two query rows are dense where the last queries straddle them.
        * With chunked prefill the last queries are those of every chunk.

    Attributes:
        first_layer: first layer that is sparse.
        sink: first tokens that every query sees.
        window: newest tokens that every query sees; at least 1.
        last: queries at the end that see everything.

    Raises:
        ValueError: a setting is out of range.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("window", 1, 1 << 30, whole=True)
    causal_choice: ClassVar[bool] = False

    first_layer: int = 16
    sink: int = 8
    window: int = 512
    last: int = 128

    def __post_init__(self) -> None:
        if min(self.first_layer, self.sink, self.last) < 0 or self.window < 1:
            raise ValueError(
                f"trianglemix: first_layer={self.first_layer}, sink={self.sink} and last={self.last} "
                f"are at least 0, window={self.window} at least 1"
            )

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """One map for all heads; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if layer < self.first_layer:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        pattern = a_shape_map(q_len, k_len, self.sink, self.window, query.device)
        ends = torch.clamp(
            (torch.arange(num_blocks(q_len), device=query.device) + 1) * BLOCK, max=q_len
        )
        pattern |= (ends > q_len - self.last)[:, None] & causal_map(q_len, k_len, query.device)
        pattern |= keep.forced(q_len, k_len, query.device)
        return shared_mask(pattern, batch, heads, q_len, k_len)
