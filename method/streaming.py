"""A-shape attention: sink tokens and a sliding window, the same for every head and every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BLOCK, BlockMask, causal_map, num_blocks
from method.keep import KeepPolicy


@dataclass(frozen=True)
class Streaming(Method):
    """StreamingLLM's pattern (arXiv 2309.17453) as a prefill mask: the control that estimates nothing.

    Rule. Every query attends to the first ``sink`` tokens and to the ``window`` newest tokens, its
    own included. Any method worth its estimate beats this at equal density.

    Defaults: 128 and 3968 tokens, those of MInference's stand-alone A-shape (arXiv 2407.02490).
    FlexPrefill's paper runs it with 1024 and 8192.

    Known departure: whole blocks are computed. A block is kept if any of its tokens is in the
    pattern for any query of the row, so up to 127 tokens more than asked for are seen at each edge.

    Attributes:
        sink: first tokens that every query sees.
        window: newest tokens that every query sees; at least 1.

    Raises:
        ValueError: a setting is out of range.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("window", 1, 1 << 30, whole=True)

    sink: int = 128
    window: int = 3968

    def __post_init__(self) -> None:
        if self.sink < 0 or self.window < 1:
            raise ValueError(
                f"streaming: sink={self.sink} and window={self.window} are tokens, at least 0 and 1"
            )

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """One map for all heads; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        pattern = a_shape_map(q_len, k_len, self.sink, self.window, query.device)
        pattern |= keep.forced(q_len, k_len, query.device)
        return shared_mask(pattern, batch, heads, q_len, k_len)


def a_shape_map(
    q_len: int,
    k_len: int,
    sink: int | Tensor,
    window: int | Tensor,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Blocks of the first ``sink`` or the newest ``window`` tokens: bool ``[..., rows, columns]``.

    Sizes are numbers, or tensors ``[..., 1, 1]`` for several patterns at a time.
    """
    rows = torch.arange(num_blocks(q_len), device=device)[:, None]
    columns = torch.arange(num_blocks(k_len), device=device)[None, :]
    oldest = rows * BLOCK + (k_len - q_len) - window + 1
    pattern = (columns * BLOCK < sink) | ((columns + 1) * BLOCK > oldest)
    return pattern & causal_map(q_len, k_len, device)


def shared_mask(pattern: Tensor, batch: int, heads: int, q_len: int, k_len: int) -> BlockMask:
    """A mask that all heads share, from a bool map ``[rows, columns]``; the lists are views."""
    mask = BlockMask.from_map(pattern[None, None], q_len, k_len)
    return BlockMask(
        mask.indices.expand(batch, heads, -1, -1), mask.counts.expand(batch, heads, -1), q_len, k_len
    )
