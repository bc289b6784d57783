"""Dense attention that lets somebody look at every layer's queries, keys and values."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from method.base import Method
from method.blocks import BlockMask
from method.keep import NO_KEEP, KeepPolicy
from method.ops.dense import dense_prefill


class Tap(Method):
    """Exact attention; subclasses say in :meth:`note` what they look at. Outputs are not changed."""

    paper_keep: ClassVar[KeepPolicy] = NO_KEEP

    @abstractmethod
    def note(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int) -> None:
        """Look at one layer's inputs: ``[B, Hq, L, D]`` and twice ``[B, Hkv, L, D]``, after RoPE."""

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Everything."""
        batch, heads, q_len, _ = query.shape
        return BlockMask.causal(batch, heads, q_len, key.shape[2], query.device)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        layer: int,
        keep: KeepPolicy,
    ) -> tuple[Tensor, Tensor]:
        """Note the inputs, then attend densely; see :meth:`method.base.Method.attend`."""
        self.note(query, key, value, scale=scale, layer=layer)
        output, _ = dense_prefill(query, key, value, scale=scale)
        return output, torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)
