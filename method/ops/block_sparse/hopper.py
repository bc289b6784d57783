"""Launches the Hopper kernel of :mod:`method.ops.block_sparse.hopper_kernel`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from method.blocks import BLOCK, BlockMask
from method.ops.block_sparse.hopper_kernel import sparse_gluon_kernel
from method.ops.block_sparse.prepared import attend_prepared
from method.ops.checks import check_attention, check_mask
from method.ops.launch import Ready, counter_on, kept, stream_of
from method.ops.triton_support import (
    aligned,
    capability,
    check_triton,
    overlaps,
    padded_head,
    unit_stride,
)

LOG2_E = 1.4426950408889634
ELEMENTS = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@dataclass(frozen=True)
class HopperLaunch:
    """Launch settings of the Hopper kernel.

    Attributes:
        stages: key and value blocks in flight.
        group_heads: finish the heads of one KV head before the next, for the cache's sake; by default
            where the keys and values of all heads do not fit into it.
    """

    stages: int = 2
    group_heads: bool | None = None

    @property
    def warps(self) -> int:
        """Warps of the first consumer, which Triton calls the program's own."""
        return 4

    @property
    def registers(self) -> tuple[int, int]:
        """Registers per thread of a consumer and of the producer."""
        return 240, 24


def shared_layout(dim: int) -> gl.NVMMASharedLayout:
    """Shared-memory layout of a tile of 16-bit elements, ``dim`` to a row."""
    return gl.NVMMASharedLayout(swizzle_byte_width=min(128, 2 * dim), element_bitwidth=16, rank=4)


def block_sparse_hopper(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    *,
    scale: float,
    with_lse: bool = False,
    launch: HopperLaunch | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Exact attention over the kept blocks on a chip of compute capability 9.0.

    Arguments and results as for :func:`method.ops.block_sparse.triton.block_sparse_triton`, but bf16
    and fp16 only. Tensors whose strides the copy engine cannot use are copied.

    Raises:
        ValueError: shapes, lengths, devices or head size do not fit, or the chip is another.
        TypeError: dtypes differ or are not supported.
    """
    options = scale, with_lse, launch or HopperLaunch()
    sizes = mask.q_len, mask.k_len, stream_of(query.device) if query.is_cuda else 0
    tensors = query, key, value, mask.indices, mask.counts
    run, copied, counter = kept(
        "block_sparse_hopper",
        tensors,
        (*options, *sizes),
        lambda: _prepare(query, key, value, mask, *options),
    )
    return attend_prepared(run, copied, (query, key, value), mask, with_lse, counter)


def _prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    scale: float,
    with_lse: bool,
    launch: HopperLaunch,
) -> tuple[Ready, list[bool], Tensor]:
    """The launch for such tensors, which of query, key and value must be copied, and its counter."""
    check_attention(query, key, value, scale)
    check_mask(query, key, mask)
    check_triton(query, "block_sparse_hopper")
    if query.dtype not in ELEMENTS:
        raise TypeError(f"block_sparse_hopper: {query.dtype} is not supported (bfloat16, float16)")
    if capability(query.device) != 90:
        raise ValueError(
            "block_sparse_hopper needs a chip of compute capability 9.0; use backend=triton"
        )
    batch, heads, q_len, dim = query.shape
    group, rows, padded = heads // key.shape[1], mask.rows, padded_head(dim)
    output_strides = q_len * heads * dim, dim, heads * dim
    tiles, overlap = batch * heads * rows, overlaps(query.device)
    device = torch.cuda.get_device_properties(query.device)
    grouped = launch.group_heads
    if grouped is None:
        grouped = (key.numel() + value.numel()) * key.element_size() > device.L2_cache_size
    usable = [aligned(one) for one in (query, key, value)]
    blocks = [1, 1, BLOCK // 2, padded], [1, 1, BLOCK, padded], [1, 1, BLOCK, padded]
    ready = Ready(
        sparse_gluon_kernel,
        (min(tiles, device.multi_processor_count),),
        (
            *output_strides, *unit_stride(mask.indices).stride()[:3], *mask.counts.stride(),
            heads, group, rows, q_len, mask.k_len, tiles,
            group if grouped else batch * heads, scale * LOG2_E,
        ),
        {
            "HEAD_DIM": dim, "DIM": padded, "ROW": BLOCK, "STAGES": launch.stages,
            "ALIGNED": (mask.k_len - q_len) % BLOCK == 0, "WITH_LSE": with_lse,
            "OVERLAP": overlap, "launch_pdl": overlap,
            "CONSUMER_REGS": launch.registers[0], "PRODUCER_REGS": launch.registers[1],
            "num_warps": launch.warps,
        },
        {place: _descriptor(*pair) for place, pair in enumerate(zip(usable, blocks, strict=True))},
    )  # fmt: skip
    own = zip(usable, (query, key, value), strict=True)
    copied = [one.data_ptr() != given.data_ptr() for one, given in own]
    return ready, copied, counter_on(query.device)


def _descriptor(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(
        tensor, list(tensor.shape), list(tensor.stride()), block, shared_layout(block[-1])
    )
