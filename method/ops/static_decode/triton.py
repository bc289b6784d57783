"""The same as a Triton kernel: the buffer is cut into chunks that are read side by side.

One program holds the queries of all heads that share a KV head and reads one chunk; chunks past the
text's end return at once. A second kernel adds up a head's partial results by their log-sum-exp, in
tiles of a fixed size up to the text's end, so that neither the buffer's capacity nor the other rows
change a bit.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.ops.block_sparse.triton import LOG2_E, attend_tile
from method.ops.checks import check_attention
from method.ops.triton_support import check_triton, padded_head, unit_stride

CHUNK = 512
"""Keys that one program reads."""

MERGED = 16
"""Chunks that are added up at a time."""


@triton.jit
def static_decode_kernel(
    q_ptr, k_ptr, v_ptr, length_ptr, out_ptr, lse_ptr,
    stride_qb, stride_qh, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    kv_heads, group, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
    BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hkv, chunks)``. Results fp32 ``[B * Hkv, chunks, group, D]`` and base-2 LSE."""
    item = (tl.program_id(0) // kv_heads).to(tl.int64)
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    chunk = tl.program_id(1)
    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED)
    live = (rows < group)[:, None] & (dims < HEAD_DIM)[None, :]
    q_head = q_ptr + item * stride_qb + head * group * stride_qh
    q = tl.load(q_head + rows[:, None] * stride_qh + dims[None, :], mask=live, other=0.0)
    keys = k_ptr + item * stride_kb + head * stride_kh
    values = v_ptr + item * stride_vb + head * stride_vh

    length = tl.load(length_ptr + item).to(tl.int32)
    first = chunk * SPAN
    end = tl.minimum(length, first + SPAN)
    # Every row sees all keys before `end`, which the tile's own bound takes care of.
    query_at = tl.zeros([ROWS], tl.int32) + length
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    norm = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    for step in range(0, tl.cdiv(tl.maximum(end - first, 0), BLOCK_N)):
        acc, peak, norm = attend_tile(
            acc, peak, norm, q, keys, values, 0, 0, first + step * BLOCK_N, stride_kl, stride_vl,
            query_at, end, factor, HEAD_DIM, PADDED, BLOCK_N, True, PRECISION, False,
        )  # fmt: skip
    seen_any = norm > 0.0
    acc = acc / tl.where(seen_any, norm, 1.0)[:, None]
    lse = tl.where(seen_any, peak + tl.log2(tl.where(seen_any, norm, 1.0)), float("-inf"))
    at = (tl.program_id(0) * tl.num_programs(1) + chunk) * group + rows
    tl.store(out_ptr + at[:, None] * HEAD_DIM + dims[None, :], acc, mask=live)
    tl.store(lse_ptr + at, lse, mask=rows < group)


@triton.jit
def merge_kernel(
    part_ptr, lse_ptr, length_ptr, out_ptr, heads, group, chunks,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, SPAN: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hq,)``: output ``[B * Hq, D]`` of one query head from its chunks that hold keys."""
    head = tl.program_id(0)
    live = tl.cdiv(tl.load(length_ptr + head // heads).to(tl.int32), SPAN)
    dims = tl.arange(0, PADDED)
    # Of [B * Hkv, chunks, group], where this head's first chunk is.
    first = (head // group).to(tl.int64) * chunks * group + head % group
    peak = tl.full([MERGED], float("-inf"), tl.float32)
    for start in range(0, live, MERGED):
        chunk = start + tl.arange(0, MERGED)
        lse = tl.load(lse_ptr + first + chunk * group, mask=chunk < live, other=float("-inf"))
        peak = tl.maximum(peak, lse)
    highest = tl.max(peak)
    acc = tl.zeros([PADDED], tl.float32)
    norm = 0.0
    for start in range(0, live, MERGED):
        chunk = start + tl.arange(0, MERGED)
        at = first + chunk * group
        lse = tl.load(lse_ptr + at, mask=chunk < live, other=float("-inf"))
        weight = tl.exp2(lse - highest)
        mask = (chunk < live)[:, None] & (dims < HEAD_DIM)[None, :]
        part = tl.load(part_ptr + at[:, None] * HEAD_DIM + dims[None, :], mask=mask, other=0.0)
        acc += tl.sum(part * weight[:, None], 0)
        norm += tl.sum(weight)
    out = (acc / norm).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + head.to(tl.int64) * HEAD_DIM + dims, out, mask=dims < HEAD_DIM)


def tile(dtype: torch.dtype) -> int:
    """Keys per step of a program; both stages of them fit the shared memory of every chip."""
    return 32 if dtype == torch.float32 else 64


def static_decode_triton(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, *, scale: float
) -> Tensor:
    """Exact attention of one new token to the first keys of its row of a buffer.

    Nothing waits for the device and no shape depends on the length, so the call can be captured in a
    CUDA graph.

    Args:
        query: ``[B, Hq, 1, D]`` bf16, fp16 or fp32 with D in {64, 96, 128}.
        key: ``[B, Hkv, capacity, D]``; what lies at or behind a row's ``length`` is not read.
        value: ``[B, Hkv, capacity, D]``.
        length: int64 ``[B]`` on the device: keys of each row that exist, the new token's own included;
            at least 1.
        scale: positive factor on the logits.

    Returns:
        Output ``[B, Hq, 1, D]`` in the query's dtype.

    Raises:
        ValueError: shapes, devices or head size do not fit.
        TypeError: dtypes differ or are not supported.
    """
    check_attention(query, key, value, scale)
    check_triton(query, "static_decode_triton")
    if query.shape[2] != 1 or length.shape != query.shape[:1]:
        raise ValueError(
            f"static_decode_triton takes one query token and a length per row, got {query.shape[2]} "
            f"and {tuple(length.shape)}"
        )
    query, key, value = unit_stride(query), unit_stride(key), unit_stride(value)
    batch, heads, _, dim = query.shape
    kv_heads, capacity = key.shape[1:3]
    group, chunks = heads // kv_heads, triton.cdiv(capacity, CHUNK)
    shape = (batch, kv_heads, chunks, group)
    partial = query.new_empty(*shape, dim, dtype=torch.float32)
    lse = query.new_empty(shape, dtype=torch.float32)
    output = query.new_empty(batch, heads, 1, dim)
    static_decode_kernel[(batch * kv_heads, chunks)](
        query, key, value, length, partial, lse,
        *query.stride()[:2], *key.stride()[:3], *value.stride()[:3],
        kv_heads, group, scale * LOG2_E,
        HEAD_DIM=dim, PADDED=padded_head(dim), ROWS=max(16, triton.next_power_of_2(group)),
        SPAN=CHUNK, BLOCK_N=tile(query.dtype),
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32", num_warps=4, num_stages=2,
    )  # fmt: skip
    merge_kernel[(batch * heads,)](
        partial, lse, length, output, heads, group, chunks,
        HEAD_DIM=dim, PADDED=padded_head(dim), SPAN=CHUNK, MERGED=MERGED, num_warps=4,
    )  # fmt: skip
    return output
