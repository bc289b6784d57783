"""RRAttention's estimate and selection on the GPU with one matrix product instead of two.

A softmax needs the sum over a whole row before any of its parts can be added to those of another
row. Rather than multiply twice, the first kernel leaves one number for every (sample, key block),
the log-sum-exp of its logits; the second turns these into block scores, the third
(:mod:`method.kernels.select_triton`) selects. All three work on a few heads at a time, so that the
numbers in between stay small and in the cache.
:mod:`method.kernels.estimate` is the readable twin and explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, BlockMask, num_blocks
from method.keep import KeepPolicy
from method.kernels.checks import check_qk
from method.kernels.estimate import sample_starts
from method.kernels.estimate_triton import LOG2_E, pool_keys_triton
from method.kernels.select_triton import Selection
from method.kernels.triton_support import (
    Launch,
    capability,
    check_triton,
    launch_for,
    padded_head,
    unit_stride,
)

SPAN_STRIDES = 2048
"""Key strides one program walks: short enough to spread the longest rows over the chip."""

_SCRATCH = 1 << 25
"""Numbers in between at a time (128 MiB), unless a single head needs more."""


@triton.jit
def _block_lse(
    q, keys, start, strides, sample_stride, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, PER: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Base-2 log-sum-exp of a tile of samples over each of ``BLOCK_N / PER`` key blocks."""
    dims = tl.arange(0, PADDED)
    at = start + tl.arange(0, BLOCK_N)
    ptrs = keys + at.to(tl.int64)[None, :] * HEAD_DIM + dims[:, None]
    if MASKED:
        k = tl.load(ptrs, mask=(at < strides)[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
    elif PADDED != HEAD_DIM:
        k = tl.load(ptrs, mask=(dims < HEAD_DIM)[:, None], other=0.0)
    else:
        k = tl.load(ptrs)
    logits = tl.dot(q, k, input_precision=PRECISION)
    if MASKED:
        seen = (at[None, :] <= sample_stride[:, None]) & (at < strides)[None, :]
        logits = tl.where(seen, logits, float("-inf"))
    # One maximum for the tile: what underflows beside it weighs less than 2^-126 of the row.
    peak = tl.max(logits, 1) * factor
    base = peak
    if MASKED:
        base = tl.where(peak == float("-inf"), 0.0, peak)
    weights = tl.exp2(logits * factor - base[:, None])
    total = tl.sum(tl.reshape(weights, (BLOCK_M, BLOCK_N // PER, PER)), 2)
    return base[:, None] + tl.log2(total)


@triton.jit
def sample_lse_kernel(
    q_ptr, pooled_ptr, starts_ptr, lse_ptr, stride_qb, stride_qh, stride_ql,
    first, heads, group, q_len, shift, strides, samples, columns, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, PER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPAN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(heads of this call, tiles of samples, spans of key strides)``.

    Writes fp32 ``[heads of this call, samples, columns]``; blocks wholly in the future are left out.
    ``PER = 128 / S``.
    """
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    begin = tl.program_id(2) * SPAN
    member = first + tl.program_id(0)
    item = (member // heads).to(tl.int64)
    head = (member % heads).to(tl.int64)
    dims = tl.arange(0, PADDED)
    sample = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    token = sample * STRIDE + tl.load(starts_ptr + head)
    sample_stride = (token + shift) // STRIDE
    reach = tl.minimum(tl.max(sample_stride, 0) + 1, strides)
    end = tl.minimum(begin + SPAN, reach)
    # Tiles of keys up to here are visible to every sample of the tile.
    interior = tl.minimum(tl.min(sample_stride, 0) + 1, strides) // BLOCK_N * BLOCK_N
    interior = tl.maximum(tl.minimum(interior, end), begin)
    q_head = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs = q_head + token.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    real = (token < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
    q = tl.load(q_ptrs, mask=real & (begin < reach), other=0.0)
    keys = pooled_ptr + (item * (heads // group) + head // group) * strides * HEAD_DIM
    out = lse_ptr + (tl.program_id(0).to(tl.int64) * samples + sample.to(tl.int64)[:, None]) * columns
    inside = (sample < samples)[:, None]
    for start in range(begin, interior, BLOCK_N):
        lse = _block_lse(
            q, keys, start, strides, sample_stride, factor,
            HEAD_DIM, PADDED, PER, BLOCK_M, BLOCK_N, False, PRECISION,
        )  # fmt: skip
        column = start // PER + tl.arange(0, BLOCK_N // PER)
        tl.store(out + column[None, :], lse, mask=inside)
    for start in range(interior, end, BLOCK_N):
        lse = _block_lse(
            q, keys, start, strides, sample_stride, factor,
            HEAD_DIM, PADDED, PER, BLOCK_M, BLOCK_N, True, PRECISION,
        )  # fmt: skip
        column = start // PER + tl.arange(0, BLOCK_N // PER)
        tl.store(out + column[None, :], lse, mask=inside & (column < columns)[None, :])


@triton.jit
def sample_mass_kernel(
    lse_ptr, scores_ptr, starts_ptr, first, heads, q_len, shift, samples, rows, columns,
    STRIDE: tl.constexpr, PER: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, heads of this call)``: softmax over blocks, added up over a row's samples."""
    row = tl.num_programs(0) - 1 - tl.program_id(0)
    start = tl.load(starts_ptr + (first + tl.program_id(1)) % heads)
    sample = row * PER + tl.arange(0, PER)
    token = sample * STRIDE + start
    real = token < q_len
    newest = (token + shift) // STRIDE // PER
    lse = lse_ptr + (tl.program_id(1).to(tl.int64) * samples + sample.to(tl.int64)[:, None]) * columns
    # All that the row can see, which may be more than its samples see.
    reach = (tl.minimum((row + 1) * PER * STRIDE, q_len) - 1 + shift) // (PER * STRIDE) + 1
    # Block 0 is visible to every sample, so a real one's peak is finite from the first chunk on.
    peak = tl.full([PER], float("-inf"), tl.float32)
    norm = tl.zeros([PER], tl.float32)
    for begin in range(0, reach, CHUNK):
        at = begin + tl.arange(0, CHUNK)
        seen = real[:, None] & (at[None, :] <= newest[:, None])
        part = tl.load(lse + at[None, :], mask=seen, other=float("-inf"))
        new_peak = tl.maximum(peak, tl.max(part, 1))
        base = tl.where(real, new_peak, 0.0)
        norm = norm * tl.exp2(peak - base) + tl.sum(tl.exp2(part - base[:, None]), 1)
        peak = new_peak
    total = tl.where(real, peak + tl.log2(norm), 0.0)
    out = scores_ptr + (tl.program_id(1).to(tl.int64) * rows + row) * columns
    for begin in range(0, reach, CHUNK):
        at = begin + tl.arange(0, CHUNK)
        seen = real[:, None] & (at[None, :] <= newest[:, None])
        part = tl.load(lse + at[None, :], mask=seen, other=float("-inf"))
        score = tl.sum(tl.exp2(part - total[:, None]), 0)
        tl.store(out + at, score, mask=at < reach)


def scores_by_heads(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    key_sum_dtype: str = "float32",
    launch: Launch | None = None,
    scratch: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Block scores of some heads at a time: the first head, counted over the batch, and its scores.

    Arguments and errors as for :func:`method.kernels.estimate.block_scores`, for bf16, fp16 and fp32
    with head size 64, 96 or 128.

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]``.
        scale: factor on the logits.
        stride: ``S``.
        offset: which query of a stride is sampled.
        layer: index of the decoder layer.
        key_sum_dtype: "float32" or "input".
        launch: settings to use instead of the chip's own; for tuning.
        scratch: fp32 numbers in between at a time; at least one head's are taken.

    Yields:
        fp32 ``[heads, rows, columns]``, the same memory every time. What lies above the diagonal is
        not written: the selection never reads it.
    """
    check_qk(query, key)
    check_triton(query, "scores_by_heads")
    query = unit_stride(query)
    batch, heads, q_len, dim = query.shape
    shift, per = key.shape[2] - q_len, BLOCK // stride
    pooled = pool_keys_triton(key, stride, key_sum_dtype)
    starts = sample_starts(heads, stride, shift, offset, query.device, layer).to(torch.int32)
    rows, columns, strides = num_blocks(q_len), num_blocks(key.shape[2]), pooled.shape[2]
    samples = rows * per
    together = min(batch * heads, max(1, (scratch or _SCRATCH) // (samples * columns)))
    lse = query.new_empty(together, samples, columns, dtype=torch.float32)
    scores = query.new_empty(together, rows, columns, dtype=torch.float32)
    launch = launch or launch_for("once", capability(query.device), dim, query.dtype)
    tiles, spans = triton.cdiv(samples, launch.block_m), triton.cdiv(strides, SPAN_STRIDES)
    for first in range(0, batch * heads, together):
        members = min(together, batch * heads - first)
        sample_lse_kernel[(members, tiles, spans)](
            query, pooled, starts, lse, *query.stride()[:3],
            first, heads, heads // key.shape[1], q_len, shift, strides, samples, columns,
            scale * LOG2_E,
            HEAD_DIM=dim, PADDED=padded_head(dim), STRIDE=stride, PER=per, BLOCK_M=launch.block_m,
            BLOCK_N=launch.block_n, SPAN=SPAN_STRIDES,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            num_warps=launch.num_warps, num_stages=launch.num_stages, maxnreg=launch.max_registers,
        )  # fmt: skip
        sample_mass_kernel[(rows, members)](
            lse, scores, starts, first, heads, q_len, shift, samples, rows, columns,
            STRIDE=stride, PER=per, CHUNK=max(16, 2048 // per),
        )  # fmt: skip
        yield first, scores[:members]


def select_once(
    query: Tensor,
    key: Tensor,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    key_sum_dtype: str = "float32",
    launch: Launch | None = None,
    scratch: int | None = None,
) -> BlockMask:
    """RRAttention's block mask on the GPU, without ever holding the scores of all heads.

    The scores agree with the twin's within about 1 part in 10^4; so blocks can differ whose mass
    ends within that of the share ``tau``. Selection from given scores is exact to fp64 rounding.

    Arguments as for :func:`scores_by_heads` and
    :func:`method.kernels.select_triton.select_blocks_triton`.
    """
    batch, heads, q_len, _ = query.shape
    selection = Selection(
        batch, heads, q_len, key.shape[2], query.device, tau=tau, selector=selector, keep=keep
    )
    for first, scores in scores_by_heads(
        query,
        key,
        scale=scale,
        stride=stride,
        offset=offset,
        layer=layer,
        key_sum_dtype=key_sum_dtype,
        launch=launch,
        scratch=scratch,
    ):
        selection.fill(scores, first)
    return selection.mask()
