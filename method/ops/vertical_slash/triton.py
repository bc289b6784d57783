"""Attention over ranges and single keys in Triton: MInference at its own granularity.

One program computes 64 queries of one head. Ranges of 64 keys may start anywhere; single keys are
gathered 64 at a time, as the original does. :func:`method.ops.vertical_slash.torch.covered_attention`
is the readable twin.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_attention
from method.ops.softmax import add_tile
from method.ops.triton_support import capability, check_triton, padded_head, unit_stride
from method.ops.vertical_slash.cover import LineCover
from method.ops.vertical_slash.torch import TILE

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    acc, peak, norm, q, k_head, v_head, key_at, real, query_at, stride_kl, stride_vl, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the keys at ``key_at`` to the running softmax; ``real`` of them, and none of the future."""
    # q and acc are [TILE, PADDED], k is [PADDED, TILE], v [TILE, PADDED]; logits are [TILE, TILE].
    dims = tl.arange(0, PADDED)
    wide = dims < HEAD_DIM
    k_ptrs = k_head + key_at.to(tl.int64)[None, :] * stride_kl + dims[:, None]
    v_ptrs = v_head + key_at.to(tl.int64)[:, None] * stride_vl + dims[None, :]
    k = tl.load(k_ptrs, mask=real[None, :] & wide[:, None], other=0.0)
    v = tl.load(v_ptrs, mask=real[:, None] & wide[None, :], other=0.0)
    logits = tl.dot(q, k, input_precision=PRECISION)
    if MASKED:
        seen = real[None, :] & (key_at[None, :] <= query_at[:, None])
        logits = tl.where(seen, logits, float("-inf"))
    return add_tile(acc, peak, norm, logits, v, factor, True, PRECISION)


@triton.jit
def line_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, member_ptr, start_ptr, range_ptr, list_ptr, count_ptr,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    stride_vb, stride_vh, stride_vl, stride_ob, stride_oh, stride_ol,
    members, group, steps, room, extra, wide, rows, q_len, k_len, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, PER_ROW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * members, query tiles)``, the longest tiles first."""
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    index = tl.program_id(0).to(tl.int64)
    item = index // members
    head = tl.load(member_ptr + index % members)
    # Queries of the tile [TILE, PADDED].
    tokens = tile * TILE + tl.arange(0, TILE)
    dims = tl.arange(0, PADDED)
    live = (tokens < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
    q_ptrs = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs += tokens.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    q = tl.load(q_ptrs, mask=live, other=0.0)
    k_head = k_ptr + item * stride_kb + (head // group) * stride_kh
    v_head = v_ptr + item * stride_vb + (head // group) * stride_vh
    out = index * tl.num_programs(1) + tile
    # Lists of the tile: first keys of ranges [ranges], single keys [count].
    starts = start_ptr + out * steps
    ranges = tl.load(range_ptr + out)
    behind = tl.maximum(tile - (rows - 1) * PER_ROW, 0)
    singles = list_ptr + index * wide + tile.to(tl.int64) * room + behind.to(tl.int64) * extra
    count = tl.load(count_ptr + 2 * out) + tl.load(count_ptr + 2 * out + 1)

    first_query = tile * TILE + k_len - q_len
    query_at = tokens + (k_len - q_len)
    at = tl.arange(0, TILE)
    # Ranges ascend: those that end at or before the first query come first.
    past = ranges
    last = tl.load(starts + past - 1, mask=past > 0, other=-TILE)
    while last + TILE - 1 > first_query:
        past -= 1
        last = tl.load(starts + past - 1, mask=past > 0, other=-TILE)
    # Running softmax: maximum in base 2 (m_i), sum of weights (l_i), weighted values [TILE, PADDED].
    peak = tl.full([TILE], float("-inf"), tl.float32)
    norm = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, PADDED], tl.float32)
    for step in range(0, past):
        key_at = tl.load(starts + step) + at
        acc, peak, norm = _attend(
            acc, peak, norm, q, k_head, v_head, key_at, at >= 0, query_at, stride_kl, stride_vl,
            factor, HEAD_DIM, PADDED, False, PRECISION,
        )  # fmt: skip
    for step in range(past, ranges):
        key_at = tl.load(starts + step) + at
        acc, peak, norm = _attend(
            acc, peak, norm, q, k_head, v_head, key_at, key_at < k_len, query_at, stride_kl,
            stride_vl, factor, HEAD_DIM, PADDED, True, PRECISION,
        )  # fmt: skip
    for first in range(0, count, TILE):
        real = first + at < count
        key_at = tl.load(singles + first + at, mask=real, other=0)
        acc, peak, norm = _attend(
            acc, peak, norm, q, k_head, v_head, key_at, real, query_at, stride_kl, stride_vl,
            factor, HEAD_DIM, PADDED, True, PRECISION,
        )  # fmt: skip
    acc = acc / tl.where(norm > 0.0, norm, 1.0)[:, None]
    out_ptrs = out_ptr + item * stride_ob + head * stride_oh
    out_ptrs += tokens.to(tl.int64)[:, None] * stride_ol + dims[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=live)


def launch_options(chip: int, dtype: torch.dtype) -> dict[str, int]:
    """Warps and pipeline stages on a chip of capability ``chip`` (0: the interpreter)."""
    if dtype == torch.float32 or not chip:
        return {"num_warps": 4, "num_stages": 1}
    return {"num_warps": 4, "num_stages": 3 if 80 <= chip < 120 and chip not in (86, 89) else 2}


def line_attention_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    members: Tensor,
    cover: LineCover,
    *,
    scale: float,
) -> None:
    """Attend for some heads over what their tiles cover, without waiting for the device.

    Args:
        query: ``[B, Hq, Lq, D]`` bf16, fp16 or fp32 with head size 64, 96 or 128, any strides.
        key: ``[B, Hkv, Lk, D]``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        output: ``[B, Hq, Lq, D]`` with a contiguous last dimension; the members' heads are written.
            A query that sees no key gets 0.
        members: int64 ``[m]``, query heads.
        cover: lists for ``[B * m]`` heads.
        scale: positive factor on the logits.

    Raises:
        ValueError: shapes, devices or head size do not fit.
        TypeError: dtypes differ or are not supported.
    """
    check_attention(query, key, value, scale)
    check_triton(query, "line_attention_triton")
    query, key, value = unit_stride(query), unit_stride(key), unit_stride(value)
    number, tiles, steps = cover.starts.shape
    line_attention_kernel[(number, tiles)](
        query, key, value, output, members, cover.starts, cover.ranges, cover.singles, cover.counts,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3],
        len(members), query.shape[1] // key.shape[1], steps, cover.room, cover.extra,
        cover.singles.shape[1], num_blocks(query.shape[2]), query.shape[2], key.shape[2],
        scale * LOG2_E,
        HEAD_DIM=query.shape[3], PADDED=padded_head(query.shape[3]), TILE=TILE, PER_ROW=BLOCK // TILE,
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        **launch_options(capability(query.device), query.dtype),
    )  # fmt: skip
