"""Where the last queries look, in Triton: the attention map of the last queries is never written.

The first kernel takes softmax statistics over pieces of the keys; the second recomputes the
probabilities tile by tile and leaves their sums by column and by diagonal.
:mod:`method.ops.vertical_slash.profile` is the readable twin and explains the quantities.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.ops.checks import check_qk
from method.ops.triton_support import check_triton, padded_head, unit_stride

LOG2_E = 1.4426950408889634
LAST = (64, 128)
PIECE = 2048
SUMS_REGISTERS = 128


def launch_options(dtype: torch.dtype) -> dict[str, int]:
    """Warps and pipeline stages: the short loop gains little from more, and fp32 tiles are large."""
    return {"num_warps": 8, "num_stages": 1 if dtype == torch.float32 else 2}


@triton.jit
def _logits(
    q_ptr, k_ptr, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    start, heads, group, q_len, k_len, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Base-2 logits of the last queries against ``LAST`` keys; what is not seen is -inf."""
    item = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    # q is [LAST, PADDED], k [PADDED, LAST keys]; the logits are [LAST, LAST keys].
    count = tl.minimum(LAST, q_len)
    index = tl.arange(0, LAST)
    dims = tl.arange(0, PADDED)
    wide = dims < HEAD_DIM
    token = q_len - count + index
    q_ptrs = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs += token.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    q = tl.load(q_ptrs, mask=(index < count)[:, None] & wide[None, :], other=0.0)
    at = start + tl.arange(0, LAST)
    k_ptrs = k_ptr + item * stride_kb + (head // group) * stride_kh
    k_ptrs += at.to(tl.int64)[None, :] * stride_kl + dims[:, None]
    k = tl.load(k_ptrs, mask=(at < k_len)[None, :] & wide[:, None], other=0.0)
    logits = tl.dot(q, k, input_precision=PRECISION) * factor
    seen = at[None, :] <= (k_len - count + index)[:, None]
    return tl.where(seen & (index < count)[:, None], logits, float("-inf"))


@triton.jit
def profile_lse_kernel(
    q_ptr, k_ptr, lse_ptr, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    heads, group, q_len, k_len, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, LAST: tl.constexpr, PIECE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hq, pieces)``: base-2 log-sum-exp of every query over one piece of the keys."""
    first = tl.program_id(1) * PIECE
    # Running maximum and sum of every query, [LAST].
    peak = tl.full([LAST], float("-inf"), tl.float32)
    norm = tl.zeros([LAST], tl.float32)
    for start in range(first, tl.minimum(first + PIECE, k_len), LAST):
        logits = _logits(
            q_ptr, k_ptr, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
            start, heads, group, q_len, k_len, factor, HEAD_DIM, PADDED, LAST, PRECISION,
        )  # fmt: skip
        new_peak = tl.maximum(peak, tl.max(logits, 1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        norm = norm * tl.exp2(peak - base) + tl.sum(tl.exp2(logits - base[:, None]), 1)
        peak = new_peak
    lse = tl.where(norm > 0, peak + tl.log2(tl.where(norm > 0, norm, 1.0)), float("-inf"))
    out = lse_ptr + (tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)) * LAST
    tl.store(out + tl.arange(0, LAST), lse)


@triton.jit
def profile_sums_kernel(
    q_ptr, k_ptr, lse_ptr, columns_ptr, diagonals_ptr,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    heads, group, q_len, k_len, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hq, tiles)``: sums of a square tile by column and along its wrapped diagonals.

    ``diagonals[..., 0, u]`` adds up where key index minus query index is ``u``, and
    ``diagonals[..., 1, u]`` where it is ``u - LAST``: together one wrapped diagonal.
    """
    start = tl.program_id(1) * LAST
    index = tl.arange(0, LAST)
    logits = _logits(
        q_ptr, k_ptr, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
        start, heads, group, q_len, k_len, factor, HEAD_DIM, PADDED, LAST, PRECISION,
    )  # fmt: skip
    lse = tl.load(lse_ptr + tl.program_id(0).to(tl.int64) * LAST + index)
    # [LAST, LAST keys]; its columns add up to one list [LAST], its diagonals to two.
    weights = tl.exp2(logits - lse[:, None])
    tile = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(columns_ptr + tile * LAST + index, tl.sum(weights, 0))
    # Row i turned by i: a diagonal becomes a column. [LAST, LAST].
    reach = index[:, None] + index[None, :]
    turned = tl.gather(weights, reach % LAST, 1)
    above = tl.where(reach < LAST, turned, 0.0)
    tl.store(diagonals_ptr + (2 * tile) * LAST + index, tl.sum(above, 0))
    tl.store(diagonals_ptr + (2 * tile + 1) * LAST + index, tl.sum(turned - above, 0))


def attention_profile_triton(
    query: Tensor, key: Tensor, *, scale: float, last: int
) -> tuple[Tensor, Tensor]:
    """Attention of the last queries, added up by key and by distance, on the GPU.

    Same arguments, errors and result as
    :func:`method.ops.vertical_slash.profile.attention_profile`, for
    bf16, fp16 and fp32 with head size 64, 96 or 128, and ``last`` 64 or 128.
    """
    check_qk(query, key)
    check_triton(query, "attention_profile_triton")
    if last not in LAST:
        raise ValueError(f"last={last}: the Triton kernel takes {' or '.join(map(str, LAST))} queries")
    query, key = unit_stride(query), unit_stride(key)
    batch, heads, q_len, dim = query.shape
    k_len, flat = key.shape[2], batch * heads
    pieces, tiles = triton.cdiv(k_len, PIECE), triton.cdiv(k_len, last)
    shape = (heads, heads // key.shape[1], q_len, k_len, scale * LOG2_E)
    strides = (*query.stride()[:3], *key.stride()[:3])
    sizes: dict[str, Any] = {
        "HEAD_DIM": dim,
        "PADDED": padded_head(dim),
        "LAST": last,
        "PRECISION": "ieee" if query.dtype == torch.float32 else "tf32",
        **launch_options(query.dtype),
    }
    parts = query.new_empty(flat, pieces, last, dtype=torch.float32)
    profile_lse_kernel[(flat, pieces)](query, key, parts, *strides, *shape, PIECE=PIECE, **sizes)
    peak = parts.amax(1)
    # Queries that do not exist (fewer than `last`) have no mass; 0 keeps them finite.
    peak = peak.masked_fill(peak == -torch.inf, 0)
    total = (parts - peak[:, None]).exp2().sum(1)
    lse = peak + total.masked_fill(total == 0, 1).log2()
    columns = query.new_empty(flat, tiles * last, dtype=torch.float32)
    diagonals = query.new_empty(flat, tiles, 2, last, dtype=torch.float32)
    # Two programs fit on a multiprocessor, which hides the waiting in these short ones.
    registers = None if query.dtype == torch.float32 else SUMS_REGISTERS
    profile_sums_kernel[(flat, tiles)](
        query, key, lse, columns, diagonals, *strides, *shape, **sizes, maxnreg=registers
    )
    by_key = columns.view(batch, heads, -1)[..., :k_len]
    return by_key, _by_distance(diagonals, min(last, q_len), k_len).view(batch, heads, k_len)


def _by_distance(diagonals: Tensor, count: int, k_len: int) -> Tensor:
    """Join the two halves of every wrapped diagonal: ``[B * Hq, Lk]`` by distance.

    A tile's upper half continues the lower half of the tile before it.
    """
    flat, tiles, _, last = diagonals.shape
    joined = diagonals.new_zeros(flat, tiles + 1, last)
    joined[:, 1:] = diagonals[:, :, 0]
    joined[:, :-1] += diagonals[:, :, 1]
    # Entry j lies at distance k_len - count + last - j.
    end = k_len - count + last
    return joined.view(flat, -1)[:, end - k_len + 1 : end + 1].flip(-1)
