"""The executor: runs attention over the blocks a method chose, the same way for every method."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor

from method.base import Method
from method.blocks import BlockMask
from method.density import density_by_head
from method.keep import KeepPolicy
from method.ops.block_sparse.reference import reference_attention
from method.ops.block_sparse.torch import block_sparse_torch
from method.ops.dense import dense_prefill
from method.ops.launch import Launches

BACKENDS = ("auto", "hopper", "triton", "fa4", "torch", "reference")

LAUNCHING = ("hopper", "triton")
"""Back ends that do nothing but launch kernels through :mod:`method.ops.launch`."""

VERSION = 1
"""Of the exact attention over kept blocks and its density; raise it when results change."""


def backend_for(backend: str, device: str, capability: str | None, dtype: str) -> str:
    """The back end that ``backend`` means on a device.

    "auto" is the Hopper kernel for 16-bit inputs on a chip of compute capability 9.0, the portable
    Triton kernel on any other CUDA device, and PyTorch elsewhere; "fa4", FlashAttention-4, is never
    chosen. Whether the kernel can run the tensors (dtype, head size, interpreter) is checked by the
    kernel itself.

    Args:
        backend: one of :data:`BACKENDS`.
        device: "cuda" or another kind of device.
        capability: compute capability of a CUDA device, such as "9.0".
        dtype: "bfloat16", "float16" or another dtype of the queries.

    Raises:
        ValueError: ``backend`` is unknown.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")
    if backend != "auto":
        return backend
    if device != "cuda":
        return "torch"
    return "hopper" if capability == "9.0" and dtype in ("bfloat16", "float16") else "triton"


def resolve_backend(query: Tensor, backend: str) -> str:
    """The back end that ``backend`` means for tensors like ``query``; see :func:`backend_for`."""
    return _backend_on(backend, query.device, query.dtype)


@cache
def _backend_on(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    capability = None
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return backend_for(backend, device.type, capability, str(dtype).removeprefix("torch."))


def block_sparse_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, *, scale: float, backend: str = "auto"
) -> Tensor:
    """Exact token-causal attention over the kept blocks.

    Args:
        query: ``[B, Hq, Lq, D]``, any strides. On a GPU: D in {64, 96, 128}, and bf16 or fp16, with
            the portable kernel also fp32.
        key: ``[B, Hkv, Lk, D]`` with ``Lk >= Lq``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        mask: kept blocks for these lengths.
        scale: positive factor on the logits.
        backend: see :func:`resolve_backend`.

    Returns:
        ``[B, Hq, Lq, D]`` in the query's dtype. A query that sees no key gets 0.

    Raises:
        ValueError: shapes, lengths, devices, head size or ``backend`` do not fit.
        TypeError: dtypes differ or are not supported.
    """
    name = resolve_backend(query, backend)
    if name == "torch":
        return block_sparse_torch(query, key, value, mask, scale=scale)
    if name == "reference":
        return reference_attention(query, key, value, mask, scale=scale)[0]
    # Imported here so that the other back ends work where Triton or FlashAttention-4 is not installed.
    if name == "fa4":
        from method.ops.block_sparse.fa4 import block_sparse_fa4

        return block_sparse_fa4(query, key, value, mask, scale=scale)
    if name == "hopper":
        from method.ops.block_sparse.hopper import block_sparse_hopper

        return block_sparse_hopper(query, key, value, mask, scale=scale)[0]
    from method.ops.block_sparse.triton import block_sparse_triton

    return block_sparse_triton(query, key, value, mask, scale=scale)[0]


@dataclass(frozen=True)
class PrefillResult:
    """What one layer's prefill gave.

    Attributes:
        output: ``[B, Hq, Lq, D]`` in the query's dtype.
        density: float32 ``[B, Hq]`` on the device: kept blocks over the causal triangle.
        kernel: what computed the output, such as "hopper", "torch" or "dense:cudnn"; for a method's own
            kernel what :meth:`method.base.Method.own_kernel` says.
    """

    output: Tensor
    density: Tensor
    kernel: str


@dataclass(frozen=True)
class SparsePrefill:
    """A method, the blocks it must keep, and the back end that runs it.

    Attributes:
        method: the rule; a dense one goes to exact attention.
        keep: blocks that are always computed.
        backend: see :func:`resolve_backend`.
        dense_below: with fewer keys than this attention is dense, whatever the method: selecting costs
            more than it saves on short prompts. 0 never is.
        launches: what repeated calls need not work out again.
    """

    method: Method
    keep: KeepPolicy
    backend: str = "auto"
    dense_below: int = 0
    launches: Launches = field(default_factory=Launches, init=False, repr=False, compare=False)

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        """Select blocks and attend.

        Args:
            query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
            key: ``[B, Hkv, Lk, D]`` after RoPE with ``Lk >= Lq``, KV heads not repeated.
            value: ``[B, Hkv, Lk, D]``.
            scale: positive factor on the logits.
            layer: index of the decoder layer.

        Raises:
            ValueError: shapes, lengths, devices, head size or ``backend`` do not fit.
            TypeError: dtypes differ or are not supported.
        """
        name = self._launching(query, key)
        if name is not None:
            run = partial(self._attend, query, key, value, scale=scale, layer=layer, name=name)
            output, density = self.launches.repeated(scale, (query, key, value), run)
            return PrefillResult(output, density, name)
        with self.launches:
            return self._run(query, key, value, scale=scale, layer=layer)

    def _launching(self, query: Tensor, key: Tensor) -> str | None:
        """The back end, if a call does nothing but launch kernels, the same for all such tensors."""
        if not self.method.launches_only or self._dense(key):
            return None
        name = resolve_backend(query, self.backend)
        return name if name in LAUNCHING else None

    def _dense(self, key: Tensor) -> bool:
        return self.method.dense or key.shape[2] < self.dense_below

    def _run(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        if self._dense(key):
            output, kernel = dense_prefill(query, key, value, scale=scale)
            density = torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)
            return PrefillResult(output, density, f"dense:{kernel}")
        own = self.method.attend(query, key, value, scale=scale, layer=layer, keep=self.keep)
        if own is not None:
            return PrefillResult(*own, self.method.own_kernel(query))
        name = resolve_backend(query, self.backend)
        return PrefillResult(
            *self._attend(query, key, value, scale=scale, layer=layer, name=name), name
        )

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int, name: str
    ) -> tuple[Tensor, Tensor]:
        """Output and density of selection and attention by a back end."""
        mask = self.method.select(query, key, scale=scale, layer=layer, keep=self.keep)
        output = block_sparse_attention(query, key, value, mask, scale=scale, backend=name)
        return output, density_by_head(mask)
