"""Queries, keys and values that are timed, and what is worked out from them once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from method.attention import SparsePrefill, block_sparse_attention
from method.base import Method
from method.blocks import BlockMask
from method.density import density_by_head
from method.keep import NO_KEEP, KeepPolicy
from rr_bench.latency.baselines import Absent
from rr_bench.latency.cases import Shape, random_mask
from rr_bench.latency.parity import check_ragged, other_kernel

DENSITY_SLACK = 0.02
"""A random mask may miss the density that its row names by this much."""


class Fixed(Method):
    """Select a given mask, whatever the inputs.

    Args:
        mask: what :meth:`select` returns.
        selecting: a method whose selection is made first and dropped: its time without its choice.
        keep: blocks that method must keep.
    """

    paper_keep = NO_KEEP

    def __init__(
        self, mask: BlockMask, selecting: Method | None = None, keep: KeepPolicy = NO_KEEP
    ) -> None:
        self._mask, self._selecting, self._keep = mask, selecting, keep

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """The given mask; see :meth:`method.base.Method.select`."""
        if self._selecting is not None:
            self._selecting.select(query, key, scale=scale, layer=layer, keep=self._keep)
        return self._mask


class Noting(Method):
    """A method whose last selection can be looked at."""

    paper_keep = NO_KEEP

    def __init__(self, method: Method) -> None:
        self._method = method
        self.mask: BlockMask | None = None

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """The method's own selection; see :meth:`method.base.Method.select`."""
        self.mask = self._method.select(query, key, scale=scale, layer=layer, keep=keep)
        return self.mask


class Inputs:
    """One query, key and value, made on first use.

    Args:
        make: draws or captures them: ``[1, Hq, L, D]`` and twice ``[1, Hkv, L, D]``.
        layer: the layer that they are taken to belong to: methods may leave the first ones dense.
        backend: setting ``backend`` of the executor.
    """

    def __init__(
        self, make: Callable[[], tuple[Tensor, Tensor, Tensor]], layer: int, backend: str
    ) -> None:
        self._make = make
        self.layer = layer
        self.backend = backend
        self._masks: dict[float, BlockMask] = {}
        self._truth: tuple[BlockMask, Tensor] | None = None

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value."""
        return self._make()

    @cached_property
    def shape(self) -> Shape:
        """Their shape."""
        query, key, _ = self.tensors
        return Shape(query.shape[2], query.shape[1], key.shape[1], query.shape[3], query.dtype)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.tensors[0].device

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float
    ) -> Tensor:
        """The executor on a mask."""
        return block_sparse_attention(query, key, value, mask, scale=scale, backend=self.backend)

    def prefill(self, prefill: Callable[..., Any]) -> Any:
        """Run a layer's prefill on them."""
        return prefill(*self.tensors, scale=self.shape.scale, layer=self.layer)

    def select(self, method: Method, keep: KeepPolicy) -> BlockMask:
        """What a method selects from them."""
        query, key, _ = self.tensors
        return method.select(query, key, scale=self.shape.scale, layer=self.layer, keep=keep)

    def mask(self, density: float) -> BlockMask:
        """A random mask of a density; the same one every time.

        Raises:
            Absent: blocks that are always kept are more than that already.
        """
        if density not in self._masks:
            mask = random_mask(self.shape, density, self.device)
            true = float(density_by_head(mask).mean())
            if abs(true - density) > DENSITY_SLACK:
                raise Absent(f"{self.shape.length} tokens are too few: their mask keeps {true:.2f}")
            self._masks[density] = mask
        return self._masks[density]

    @cached_property
    def kernel(self) -> str:
        """Name of the executor's kernel, which passed the check on a short ragged prompt."""
        check_ragged(self.attend, self.shape, self.device)
        return self.kernel_on(self.mask(1.0))

    def kernel_on(self, mask: BlockMask) -> str:
        """Name of the kernel that the executor takes for a mask."""
        name: str = self.prefill(SparsePrefill(Fixed(mask), NO_KEEP, self.backend)).kernel
        return name

    def truth(self, mask: BlockMask) -> Tensor:
        """What another kernel than the executor's makes of a mask; the last answer is kept."""
        if self._truth is None or self._truth[0] is not mask:
            self._truth = None
            run = other_kernel(self.kernel, self.tensors[0])
            self._truth = mask, run(*self.tensors, mask, scale=self.shape.scale)
        return self._truth[1]
