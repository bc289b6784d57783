"""Launches the Hopper kernel of :mod:`method.ops.rr_scores.hopper_kernel`."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from method.blocks import BLOCK
from method.ops.launch import Ready, counter_on
from method.ops.rr_scores.hopper_kernel import block_scores_gluon_kernel
from method.ops.rr_scores.problem import Estimate, Fill
from method.ops.triton_support import overlaps, padded_head

SAMPLES = 256
KEYS = 128
STAGES = 4
REGISTERS = (112, 24)
"""Registers per thread of a consumer and of the producer."""


def keys_layout(dim: int) -> gl.NVMMASharedLayout:
    """Shared-memory layout of a chunk of pooled 16-bit keys, ``dim`` to a row."""
    return gl.NVMMASharedLayout(swizzle_byte_width=min(128, 2 * dim), element_bitwidth=16, rank=3)


def packs(size: int, device: torch.device) -> bool:
    """Whether block sums are kept in fp16, as ``size`` bytes of scratch do not fit into the cache."""
    return size > torch.cuda.get_device_properties(device).L2_cache_size


def fill_hopper(estimate: Estimate, *, maximum: bool) -> Fill:
    """The estimate on a chip of compute capability 9.0; bf16 and fp16."""
    device, dim = estimate.device, estimate.query_shape[3]
    padded = padded_head(dim)
    pooled = torch.empty(estimate.pooled_shape, dtype=estimate.dtype, device=device).flatten(0, 1)
    keys = TensorDescriptor(
        pooled, list(pooled.shape), list(pooled.stride()), [1, KEYS, padded], keys_layout(padded)
    )
    units = torch.cuda.get_device_properties(device).multi_processor_count
    sizes = estimate.sizes(SAMPLES)
    tiles = sizes[0] * sizes[-1]
    programs, overlap = min(tiles, units), overlaps(device)
    packed = packs(4 * estimate.scratch(programs, SAMPLES, KEYS)[0], device)
    size, room = estimate.scratch(programs, SAMPLES, KEYS, packed=2 if packed else 1)
    launch = Ready(
        block_scores_gluon_kernel,
        (programs,),
        (*estimate.query_strides[:3], *sizes, room, estimate.factor),
        {
            "HEAD_DIM": dim, "DIM": padded, "STRIDE": estimate.stride,
            "PER": BLOCK // estimate.stride, "SAMPLES": SAMPLES, "KEYS": KEYS, "STAGES": STAGES,
            "MAXIMUM": maximum, "PACKED": packed, "FOLDED": tiles == programs, "OVERLAP": overlap,
            "CONSUMER_REGS": REGISTERS[0], "PRODUCER_REGS": REGISTERS[1], "num_warps": 4,
            "launch_pdl": overlap,
        },
        {1: keys},
    )  # fmt: skip

    counter = counter_on(device)

    def fill(query: Tensor, pooled: Tensor, scores: Tensor) -> None:
        scratch = torch.empty(size, dtype=torch.float32, device=device)
        launch(query, pooled, scores, scratch, estimate.starts, counter)

    return fill
