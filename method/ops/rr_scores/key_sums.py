"""Mean keys of strides in Triton; the twin is :func:`method.ops.rr_scores.torch.pool_keys`."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from method.ops.launch import Ready, kept
from method.ops.triton_support import check_triton, overlaps, padded_head, unit_stride

POOL_STRIDES = 8
"""Strides of a program: with 16-bit keys of 128 a thread adds up 8 numbers of one."""


@triton.jit
def pool_keys_kernel(
    k_ptr, out_ptr, stride_kb, stride_kh, stride_kl, kv_heads, k_len, strides,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hkv, ceil(strides / TILE))``: mean key of ``TILE`` strides.

    Launched when all ahead of it has ended, which the estimate behind it relies on.
    """
    if OVERLAP:
        gdc_launch_dependents()
    item = (tl.program_id(0) // kv_heads).to(tl.int64)
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    # All tokens of a step are asked for before the first is there: as one tile, tokens in the middle,
    # so that a thread holds those that it adds up.
    TOGETHER: tl.constexpr = min(STRIDE, 8)
    # Strides [TILE]; tokens and where they lie [TILE, TOGETHER]; total and mean are [TILE, PADDED].
    index = tl.program_id(1) * TILE + tl.arange(0, TILE)
    dims = tl.arange(0, PADDED)
    at = index[:, None] * STRIDE + tl.arange(0, TOGETHER)[None, :]
    ptrs = k_ptr + item * stride_kb + head * stride_kh
    ptrs += at.to(tl.int64)[:, :, None] * stride_kl + dims[None, None, :]
    wide = dims < HEAD_DIM
    total = tl.zeros([TILE, PADDED], tl.float32)
    for first in range(0, STRIDE, TOGETHER):
        there = (at + first < k_len)[:, :, None] & wide[None, None, :]
        total += tl.sum(tl.load(ptrs, mask=there, other=0.0).to(tl.float32), 1)
        ptrs += TOGETHER * stride_kl
    out = out_ptr + (item * kv_heads + head) * strides * HEAD_DIM
    ptrs = out + index.to(tl.int64)[:, None] * HEAD_DIM + dims[None, :]
    mean = (total * (1.0 / STRIDE)).to(out_ptr.dtype.element_ty)
    tl.store(ptrs, mean, mask=(index < strides)[:, None] & wide[None, :])


def pool_keys_triton(key: Tensor, stride: int) -> Tensor:
    """Mean key of every stride, like :func:`method.ops.rr_scores.torch.pool_keys`."""
    launch, shape = kept("pool_keys", (key,), stride, lambda: _prepare(key, stride))
    key = unit_stride(key)
    pooled = torch.empty(shape, dtype=key.dtype, device=key.device)
    launch(key, pooled)
    return pooled


def _prepare(key: Tensor, stride: int) -> tuple[Ready, tuple[int, ...]]:
    """The launch for such keys, and the shape of their means."""
    check_triton(key, "pool_keys_triton")
    batch, kv_heads, k_len, dim = key.shape
    strides = -(-k_len // stride)
    launch = Ready(
        pool_keys_kernel,
        (batch * kv_heads, triton.cdiv(strides, POOL_STRIDES)),
        (*unit_stride(key).stride()[:3], kv_heads, k_len, strides),
        {
            "HEAD_DIM": dim, "PADDED": padded_head(dim), "STRIDE": stride, "TILE": POOL_STRIDES,
            "OVERLAP": overlaps(key.device),
        },
    )  # fmt: skip
    return launch, (batch, kv_heads, strides, dim)
