"""RRAttention's estimate of block importance in Triton: no logits are ever written.

Two kernels: one pools the keys of every stride, the other takes a tile of sampled queries over
the pooled keys twice, first for the softmax statistics, then for the block sums.
:mod:`method.kernels.estimate` is the readable twin and explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.kernels.checks import check_qk
from method.kernels.estimate import KEY_SUM_DTYPES, sample_starts
from method.kernels.triton_support import (
    capability,
    check_triton,
    launch_for,
    padded_head,
    unit_stride,
)

LOG2_E = 1.4426950408889634
POOL_STRIDES = 32
SAMPLES = 128


@triton.jit
def pool_keys_kernel(
    k_ptr, out_ptr, stride_kb, stride_kh, stride_kl, kv_heads, k_len, strides,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr,
    ROUND_EACH: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hkv, ceil(strides / TILE))``: mean key of ``TILE`` strides."""
    item = (tl.program_id(0) // kv_heads).to(tl.int64)
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    index = tl.program_id(1) * TILE + tl.arange(0, TILE)
    dims = tl.arange(0, PADDED)
    wide = (dims < HEAD_DIM)[None, :]
    base = k_ptr + item * stride_kb + head * stride_kh + dims[None, :]
    total = tl.zeros([TILE, PADDED], tl.float32)
    for token in range(0, STRIDE):
        at = index * STRIDE + token
        ptrs = base + at.to(tl.int64)[:, None] * stride_kl
        total += tl.load(ptrs, mask=(at < k_len)[:, None] & wide, other=0.0).to(tl.float32)
        if ROUND_EACH:
            total = total.to(out_ptr.dtype.element_ty).to(tl.float32)
    out = out_ptr + (item * kv_heads + head) * strides * HEAD_DIM
    ptrs = out + index.to(tl.int64)[:, None] * HEAD_DIM + dims[None, :]
    mean = (total * (1.0 / STRIDE)).to(out_ptr.dtype.element_ty)
    tl.store(ptrs, mean, mask=(index < strides)[:, None] & wide)


@triton.jit
def _tile_logits(
    q, pooled, start, strides, sample_stride, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Base-2 logits of a tile of samples against ``BLOCK_N`` strides; the future is -inf."""
    dims = tl.arange(0, PADDED)
    at = start + tl.arange(0, BLOCK_N)
    ptrs = pooled + at.to(tl.int64)[None, :] * HEAD_DIM + dims[:, None]
    k = tl.load(ptrs, mask=(at < strides)[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
    logits = tl.dot(q, k, input_precision=PRECISION) * factor
    seen = (at[None, :] <= sample_stride[:, None]) & (at < strides)[None, :]
    return tl.where(seen, logits, float("-inf"))


@triton.jit
def block_scores_kernel(
    q_ptr, pooled_ptr, starts_ptr, scores_ptr, stride_qb, stride_qh, stride_ql,
    heads, group, q_len, shift, strides, rows, columns, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, PER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hq, ceil(rows * PER / BLOCK_M))``; ``PER = 128 / S`` samples per query row."""
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    item = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    dims = tl.arange(0, PADDED)
    samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    tokens = samples * STRIDE + tl.load(starts_ptr + head)
    real = tokens < q_len
    sample_stride = (tokens + shift) // STRIDE
    q_head = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs = q_head + tokens.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    q = tl.load(q_ptrs, mask=real[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    kv_heads = heads // group
    pooled = pooled_ptr + (item * kv_heads + head // group) * strides * HEAD_DIM
    reach = tl.minimum(tl.max(sample_stride, 0) + 1, strides)

    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    norm = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, reach, BLOCK_N):
        logits = _tile_logits(
            q, pooled, start, strides, sample_stride, factor, HEAD_DIM, PADDED, BLOCK_N, PRECISION
        )
        # Stride 0 is visible to every sample, so the peak is finite from the first tile on.
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        norm = norm * tl.exp2(peak - new_peak) + tl.sum(tl.exp2(logits - new_peak[:, None]), 1)
        peak = new_peak

    row = (tile * BLOCK_M) // PER + tl.arange(0, BLOCK_M // PER)
    out_row = scores_ptr + ((item * heads + head) * rows + row.to(tl.int64)[:, None]) * columns
    shares = tl.where(real, 1.0 / norm, 0.0)
    for start in range(0, reach, BLOCK_N):
        logits = _tile_logits(
            q, pooled, start, strides, sample_stride, factor, HEAD_DIM, PADDED, BLOCK_N, PRECISION
        )
        weights = tl.exp2(logits - peak[:, None]) * shares[:, None]
        by_block = tl.sum(tl.reshape(weights, (BLOCK_M, BLOCK_N // PER, PER)), 2)
        sums = tl.sum(tl.reshape(by_block, (BLOCK_M // PER, PER, BLOCK_N // PER)), 1)
        column = start // PER + tl.arange(0, BLOCK_N // PER)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        tl.store(out_row + column[None, :], sums, mask=inside)


def pool_keys_triton(key: Tensor, stride: int, key_sum_dtype: str = "float32") -> Tensor:
    """Mean key of every stride, like :func:`method.kernels.estimate.pool_keys`."""
    check_triton(key, "pool_keys_triton")
    if key_sum_dtype not in KEY_SUM_DTYPES:
        raise ValueError(f"key_sum_dtype={key_sum_dtype!r} is not one of {', '.join(KEY_SUM_DTYPES)}")
    key = unit_stride(key)
    batch, kv_heads, k_len, dim = key.shape
    strides = -(-k_len // stride)
    pooled = key.new_empty(batch, kv_heads, strides, dim)
    pool_keys_kernel[(batch * kv_heads, triton.cdiv(strides, POOL_STRIDES))](
        key, pooled, *key.stride()[:3], kv_heads, k_len, strides,
        HEAD_DIM=dim, PADDED=padded_head(dim), STRIDE=stride, TILE=POOL_STRIDES,
        ROUND_EACH=key_sum_dtype == "input",
    )  # fmt: skip
    return pooled


def block_scores_triton(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    key_sum_dtype: str = "float32",
) -> Tensor:
    """Estimated attention mass of every (query row, key block), on the GPU.

    Same arguments, errors and result as :func:`method.kernels.estimate.block_scores`, for bf16,
    fp16 and fp32 with head size 64, 96 or 128.

    Returns:
        fp32 ``[B, Hq, rows, columns]``.
    """
    check_qk(query, key)
    check_triton(query, "block_scores_triton")
    query = unit_stride(query)
    batch, heads, q_len, dim = query.shape
    shift, per = key.shape[2] - q_len, BLOCK // stride
    pooled = pool_keys_triton(key, stride, key_sum_dtype)
    starts = sample_starts(heads, stride, shift, offset, query.device, layer).to(torch.int32)
    rows, columns = num_blocks(q_len), num_blocks(key.shape[2])
    # Zeros, because tiles above the diagonal are never visited.
    scores = query.new_zeros(batch, heads, rows, columns, dtype=torch.float32)
    launch = launch_for("estimate", capability(query.device), dim, query.dtype)
    block_scores_kernel[(batch * heads, triton.cdiv(rows * per, SAMPLES))](
        query, pooled, starts, scores, *query.stride()[:3],
        heads, heads // key.shape[1], q_len, shift, pooled.shape[2], rows, columns, scale * LOG2_E,
        HEAD_DIM=dim, PADDED=padded_head(dim), STRIDE=stride, PER=per,
        BLOCK_M=SAMPLES, BLOCK_N=launch.block_n,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return scores
