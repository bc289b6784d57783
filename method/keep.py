"""Which blocks are always computed, whatever a method's scores say.

The rule is factored out of the methods so that every method can be run under every rule: part of
a method's edge may come from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from method.blocks import causal_map, num_blocks, visible_blocks


@dataclass(frozen=True)
class KeepPolicy:
    """Blocks that are always kept.

    Attributes:
        sink: key block 0 in every query row.
        diagonal: the last visible key block of every query row.
        last_row: every visible key block of the last query row (with chunked prefill: of every
            chunk's last row, since a chunk does not know whether it is the final one).
    """

    sink: bool = True
    diagonal: bool = True
    last_row: bool = False

    def __str__(self) -> str:
        """What is kept, or "none"."""
        return "+".join(name for name, on in vars(self).items() if on) or "none"

    def columns(self, q_len: int, k_len: int, device: torch.device | str = "cpu") -> Tensor:
        """Sink and diagonal only: bool ``[rows, columns]``. The part a selector counts as mass."""
        visible = visible_blocks(q_len, k_len, device)[:, None]
        column = torch.arange(num_blocks(k_len), device=device)[None, :]
        sink = (column == 0) if self.sink else torch.zeros_like(column, dtype=torch.bool)
        return (sink | (column == visible - 1)) if self.diagonal else sink.expand(len(visible), -1)

    def forced(self, q_len: int, k_len: int, device: torch.device | str = "cpu") -> Tensor:
        """All kept blocks: bool ``[rows, columns]``, never above the diagonal."""
        forced = self.columns(q_len, k_len, device).clone()
        if self.last_row:
            forced[-1] = causal_map(q_len, k_len, device)[-1]
        return forced


RR_KEEP = KeepPolicy(sink=True, diagonal=True, last_row=True)
"""RRAttention's evaluation setting (keep_sink and keep_recent on)."""

NO_KEEP = KeepPolicy(sink=False, diagonal=False, last_row=False)

EQUAL_KEEP = RR_KEEP
"""For comparisons on equal footing: the largest of the published rules, given to everyone."""
