"""XAttention's and CoSA's estimates of block importance in Triton.

A matrix product over whole strides costs 1 / (2 S) of dense attention, too much to do it twice for
a softmax in two passes. So the first kernel leaves one number for every (query stride, key block),
the log-sum-exp of its logits, and the second one turns these into probabilities and block scores. For
CoSA the number is the largest logit, and the second kernel makes offers of it.
:mod:`method.ops.antidiagonal.torch` is the readable twin and explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from method.blocks import BLOCK, num_blocks
from method.ops.antidiagonal.torch import ALMOST_BEST, check_reduction, stride_lag
from method.ops.checks import check_qk
from method.ops.triton_support import (
    Launch,
    aligned,
    capability,
    check_triton,
    interpreting,
    unit_stride,
)

LOG2_E = 1.4426950408889634
QUERY_STRIDES = 128
_GROUP = 16
_CHUNK_SUMS = 1 << 28


def launch_antidiagonal(chip: int, dtype: torch.dtype) -> Launch:
    """Launch settings on a chip of capability ``chip`` (0: the interpreter).

    The wide tile of 9.0 and 10.0 is what the tensor cores need there: a narrower one spends its
    time on reading keys again. Their copy engine takes the addresses off the programs' hands.
    """
    if dtype == torch.float32 or not chip:
        return Launch(128, 8, 1)
    if 90 <= chip < 120:
        return Launch(256, 8, 4, tma=True)
    return Launch(128, 8, 3 if chip == 80 else 2)


def inner_step(head_dim: int, dtype: torch.dtype) -> int:
    """Features multiplied at a time: a divisor of every supported head size."""
    return 64 if head_dim % 64 == 0 and dtype != torch.float32 else 32


@triton.jit
def _strides_of(
    tensor, item, head, first, token, dim, stride_l, length,
    STRIDE: tl.constexpr, BLOCK_K: tl.constexpr, SIZE: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Features ``dim`` on of one token of each stride, ``[SIZE, BLOCK_K]``, 0 behind the end."""
    if TMA:
        part = tl.reshape(tensor.load([item, head, first, token, dim]), (SIZE, BLOCK_K))
    else:
        at = (first + tl.arange(0, SIZE)) * STRIDE + token
        ptrs = tensor + at.to(tl.int64)[:, None] * stride_l + (dim + tl.arange(0, BLOCK_K))[None, :]
        part = tl.load(ptrs, mask=(at < length)[:, None], other=0.0)
    return part


@triton.jit
def _log2(value, FAST: tl.constexpr):
    """Base-2 logarithm, -inf for 0; ``FAST`` is one instruction, which the interpreter lacks."""
    if FAST:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [value], dtype=tl.float32, is_pure=True, pack=1
        )
    return tl.where(value > 0, tl.log2(tl.where(value > 0, value, 1.0)), float("-inf"))


@triton.jit
def _sums_by_block(
    logits, BLOCKS: tl.constexpr, PER: tl.constexpr, MASKED: tl.constexpr, FAST: tl.constexpr
):
    """Base-2 log-sum-exp of each ``PER`` columns of ``[M, BLOCKS * PER]``, -inf for nothing seen."""
    # One maximum for the tile: what underflows beside it weighs less than 2^-126 of the row.
    peak = tl.max(logits, 1)
    if MASKED:
        # Where nothing is seen, 0 in place of -inf keeps the arithmetic finite.
        peak = tl.where(peak == float("-inf"), 0.0, peak)
    weights = tl.reshape(tl.exp2(logits - peak[:, None]), (logits.shape[0], BLOCKS, PER))
    return peak[:, None] + _log2(tl.sum(weights, 2), FAST)


@triton.jit
def _largest_by_block(logits, BLOCKS: tl.constexpr, PER: tl.constexpr):
    """Largest of each ``PER`` columns of ``[M, BLOCKS * PER]``, -inf for nothing seen."""
    return tl.max(tl.reshape(logits, (logits.shape[0], BLOCKS, PER)), 2)


@triton.jit
def block_lse_kernel(
    q_ptr, keys_ptr, tiles_ptr, lse_ptr,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    first, heads, group, q_len, k_len, lag, q_strides, k_strides, columns, factor,
    HEAD_DIM: tl.constexpr, STRIDE: tl.constexpr, PER: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, TMA: tl.constexpr,
    FAST: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles, heads of this call)``; ``PER = 128 / S`` strides per block.

    Writes the base-2 log-sum-exp of every query stride over each key block of the tile, or the
    ``LARGEST`` logit, ``[heads of this call, q_strides, columns]``. With ``TMA`` the keys are a
    descriptor of ``[B, Hkv, strides, S, D]`` with blocks of one token of many strides, instead of a
    pointer. Queries are not: a tile that had to be reshaped would reach the tensor cores by way of
    registers.
    """
    tile_m = tl.load(tiles_ptr + 2 * tl.program_id(0))
    tile_n = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    item = (first + tl.program_id(1)) // heads
    head = (first + tl.program_id(1)) % heads
    queries = q_ptr + item.to(tl.int64) * stride_qb + head.to(tl.int64) * stride_qh
    keys = keys_ptr
    if not TMA:
        keys += item.to(tl.int64) * stride_kb + (head // group).to(tl.int64) * stride_kh
    # Query strides by key strides, added up over tokens and features: q is [BLOCK_M, BLOCK_K],
    # k [BLOCK_N, BLOCK_K].
    dots = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    pieces: tl.constexpr = HEAD_DIM // BLOCK_K
    # One flat loop, so that it is pipelined in steps of BLOCK_K features.
    for step in range(0, STRIDE * pieces):
        token = step // pieces
        dim = (step % pieces) * BLOCK_K
        q = _strides_of(
            queries, item, head, tile_m * BLOCK_M, STRIDE - 1 - token, dim, stride_ql, q_len,
            STRIDE, BLOCK_K, BLOCK_M, False,
        )  # fmt: skip
        k = _strides_of(
            keys, item, head // group, tile_n * BLOCK_N, token, dim, stride_kl, k_len,
            STRIDE, BLOCK_K, BLOCK_N, TMA,
        )  # fmt: skip
        dots = tl.dot(q, k.T, dots, input_precision=PRECISION)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    last = tile_n * BLOCK_N + BLOCK_N - 1
    seen = (cols[None, :] <= rows[:, None] + lag) & (cols < k_strides)[None, :]
    if LARGEST:
        logits = tl.where(seen, dots * factor, float("-inf"))
        lse = _largest_by_block(logits, BLOCK_N // PER, PER)
    elif (last <= tile_m * BLOCK_M + lag) & (last < k_strides):
        lse = _sums_by_block(dots * factor, BLOCK_N // PER, PER, False, FAST)
    else:
        logits = tl.where(seen, dots * factor, float("-inf"))
        lse = _sums_by_block(logits, BLOCK_N // PER, PER, True, FAST)
    # lse is [BLOCK_M, blocks of the tile].
    block = tile_n * (BLOCK_N // PER) + tl.arange(0, BLOCK_N // PER)
    out = (tl.program_id(1).to(tl.int64) * q_strides + rows.to(tl.int64)[:, None]) * columns
    keep = (rows < q_strides)[:, None] & (block < columns)[None, :]
    tl.store(lse_ptr + out + block[None, :], lse, mask=keep)


@triton.jit
def block_mass_kernel(
    lse_ptr, scores_ptr, first, lag, q_strides, rows, columns,
    PER: tl.constexpr, CHUNK: tl.constexpr, MAXIMUM: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, heads of this call)``: softmax over blocks, reduced over a row's strides."""
    row = tl.program_id(0)
    # The query strides of one row, [PER]; parts of lse and shares are [PER, CHUNK blocks].
    stride = row * PER + tl.arange(0, PER)
    real = stride < q_strides
    lse = lse_ptr + (tl.program_id(1).to(tl.int64) * q_strides + stride.to(tl.int64)[:, None]) * columns
    newest = (stride + lag) // PER
    reach = tl.minimum((row * PER + PER - 1 + lag) // PER + 1, columns)
    peak = tl.full([PER], float("-inf"), tl.float32)
    norm = tl.zeros([PER], tl.float32)
    for start in range(0, reach, CHUNK):
        at = start + tl.arange(0, CHUNK)
        seen = real[:, None] & (at[None, :] <= newest[:, None]) & (at < columns)[None, :]
        part = tl.load(lse + at[None, :], mask=seen, other=float("-inf"))
        # Strides past the end would otherwise compute inf - inf.
        part = tl.where(real[:, None], part, 0.0)
        # The first chunk holds the first tile's best block, visible to all: the peak is finite.
        new_peak = tl.maximum(peak, tl.max(part, 1))
        norm = norm * tl.exp2(peak - new_peak) + tl.sum(tl.exp2(part - new_peak[:, None]), 1)
        peak = new_peak
    total = peak + tl.log2(norm)
    out = scores_ptr + ((first + tl.program_id(1)).to(tl.int64) * rows + row) * columns
    for start in range(0, reach, CHUNK):
        at = start + tl.arange(0, CHUNK)
        seen = real[:, None] & (at[None, :] <= newest[:, None]) & (at < columns)[None, :]
        part = tl.load(lse + at[None, :], mask=seen, other=float("-inf"))
        share = tl.where(real[:, None], tl.exp2(part - total[:, None]), 0.0)
        result = tl.max(share, 0) if MAXIMUM else tl.sum(share, 0)
        tl.store(out + at, result, mask=at < reach)


@triton.jit
def block_offers_kernel(
    peaks_ptr, mass_ptr, best_ptr, first, lag, q_strides, rows, columns,
    PER: tl.constexpr, CHUNK: tl.constexpr, ALMOST: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, heads of this call)``: offers summed over a row's strides, and where the best are.

    Reads the largest logits that ``block_lse_kernel`` left; ``ALMOST`` is what counts as the best.
    """
    row = tl.program_id(0)
    stride = row * PER + tl.arange(0, PER)
    real = stride < q_strides
    start_of = tl.program_id(1).to(tl.int64) * q_strides + stride.to(tl.int64)[:, None]
    peaks = peaks_ptr + start_of * columns
    # Key blocks that each stride sees.
    blocks = tl.where(real, tl.minimum((stride + lag) // PER + 1, columns), 0)
    top = tl.full([PER], float("-inf"), tl.float32)
    for start in range(0, tl.max(blocks, 0), CHUNK):
        at = start + tl.arange(0, CHUNK)
        part = tl.load(peaks + at[None, :], mask=at[None, :] < blocks[:, None], other=float("-inf"))
        top = tl.maximum(top, tl.max(part, 1))
    top = tl.where(real, top, 0.0)
    out = ((first + tl.program_id(1)).to(tl.int64) * rows + row) * columns
    for start in range(0, columns, CHUNK):
        at = start + tl.arange(0, CHUNK)
        part = tl.load(peaks + at[None, :], mask=at[None, :] < blocks[:, None], other=float("-inf"))
        offer = tl.exp2(part - top[:, None])
        tl.store(mass_ptr + out + at, tl.sum(offer, 0), mask=at < columns)
        tl.store(best_ptr + out + at, tl.max(offer, 0) >= ALMOST, mask=at < columns)


def causal_tiles(q_strides: int, k_strides: int, lag: int, block_n: int) -> Tensor:
    """Tiles (m, n) with a visible cell, as int32 ``[tiles, 2]`` on the CPU.

    Groups of sixteen query tiles walk the key tiles together, so that those are read from the cache.
    """
    count = -(-q_strides // QUERY_STRIDES)
    ends = torch.clamp((torch.arange(count) + 1) * QUERY_STRIDES, max=q_strides) + lag
    widths = (torch.clamp(ends, max=k_strides) + block_n - 1) // block_n
    groups = -(-count // _GROUP)
    widths = torch.nn.functional.pad(widths, (0, groups * _GROUP - count)).view(groups, 1, _GROUP)
    wanted = torch.arange(int(widths.max()))[None, :, None] < widths
    group, n, member = wanted.nonzero().unbind(1)
    return torch.stack([group * _GROUP + member, n], 1).to(torch.int32)


@lru_cache(maxsize=16)
def device_tiles(
    q_strides: int, k_strides: int, lag: int, block_n: int, device: torch.device
) -> Tensor:
    """The tiles on the device, kept for the next layer: copying them waits for the device."""
    return causal_tiles(q_strides, k_strides, lag, block_n).to(device)


def stride_descriptor(tensor: Tensor, stride: int, size: int, width: int) -> TensorDescriptor:
    """``[B, H, L, D]`` as ``[B, H, L / S, S, D]`` for the copy engine.

    One copy takes ``width`` features of the same token of ``size`` strides. ``L`` is a multiple of S.
    """
    tensor = aligned(tensor)
    batch, heads, length, dim = tensor.shape
    of_item, of_head, of_token, _ = tensor.stride()
    return TensorDescriptor(
        tensor,
        [batch, heads, length // stride, stride, dim],
        [of_item, of_head, of_token * stride, of_token, 1],
        [1, 1, size, 1, width],
    )


def antidiagonal_scores_triton(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    reduction: str = "sum",
    launch: Launch | None = None,
) -> Tensor:
    """Estimated attention mass of every (query row, key block), on the GPU.

    Same arguments, errors and result as :func:`method.ops.antidiagonal.torch.antidiagonal_scores`,
    for bf16, fp16 and fp32 with head size 64, 96 or 128. Works on as many heads at a time as fit
    into 1 GiB of intermediate sums (at least one).

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]``.
        scale: factor on the logits.
        stride: ``S``.
        reduction: "sum" or "max".
        launch: settings to use instead of the chip's own; for tuning. Its copy engine serves only
            keys that fill their last stride.

    Returns:
        fp32 ``[B, Hq, rows, columns]``.
    """
    check_reduction(reduction)
    rows, columns = num_blocks(query.shape[2]), num_blocks(key.shape[2])
    # Zeros, because blocks above the diagonal are never visited.
    scores = query.new_zeros(*query.shape[:2], rows, columns, dtype=torch.float32)
    lag, per = stride_lag(query.shape[2], key.shape[2], stride), BLOCK // stride
    for first, lse in _by_stride(query, key, scale, stride, launch, largest=False):
        block_mass_kernel[(rows, lse.shape[0])](
            lse, scores, first, lag, lse.shape[1], rows, columns,
            PER=per, CHUNK=max(32, 2048 // per), MAXIMUM=reduction == "max",
        )  # fmt: skip
    return scores


def antidiagonal_peaks_triton(
    query: Tensor, key: Tensor, *, scale: float, stride: int, launch: Launch | None = None
) -> tuple[Tensor, Tensor]:
    """What each key block offers every query stride at best, and where a stride has its best.

    Same arguments, errors and result as :func:`method.ops.antidiagonal.torch.antidiagonal_peaks`; see
    :func:`antidiagonal_scores_triton` for what it can run on.
    """
    rows, columns = num_blocks(query.shape[2]), num_blocks(key.shape[2])
    mass = query.new_empty(*query.shape[:2], rows, columns, dtype=torch.float32)
    best = torch.empty_like(mass, dtype=torch.bool)
    lag, per = stride_lag(query.shape[2], key.shape[2], stride), BLOCK // stride
    for first, peaks in _by_stride(query, key, scale, stride, launch, largest=True):
        block_offers_kernel[(rows, peaks.shape[0])](
            peaks, mass, best, first, lag, peaks.shape[1], rows, columns,
            PER=per, CHUNK=max(32, 2048 // per), ALMOST=ALMOST_BEST,
        )  # fmt: skip
    return mass, best


def _by_stride(
    query: Tensor, key: Tensor, scale: float, stride: int, launch: Launch | None, *, largest: bool
) -> Iterator[tuple[int, Tensor]]:
    """Log-sum-exps (or largest logits) by query stride and key block, for some heads at a time.

    Yields the first head of all batches' heads, and fp32 ``[heads, query strides, columns]`` in memory
    that the next step overwrites.
    """
    check_qk(query, key)
    check_triton(query, "the antidiagonal estimate")
    query, key = unit_stride(query), unit_stride(key)
    batch, heads, q_len, dim = query.shape
    k_len, columns = key.shape[2], num_blocks(key.shape[2])
    q_strides, k_strides = -(-q_len // stride), -(-k_len // stride)
    lag, width = stride_lag(q_len, k_len, stride), inner_step(dim, query.dtype)
    launch = launch or launch_antidiagonal(capability(query.device), query.dtype)
    tiles = device_tiles(q_strides, k_strides, lag, launch.block_n, query.device)
    tma = launch.tma and k_len % stride == 0
    keys = stride_descriptor(key, stride, launch.block_n, width) if tma else key
    together = min(batch * heads, max(1, _CHUNK_SUMS // (q_strides * columns)))
    lse = query.new_empty(together, q_strides, columns, dtype=torch.float32)
    for first in range(0, batch * heads, together):
        members = min(together, batch * heads - first)
        block_lse_kernel[(tiles.shape[0], members)](
            query, keys, tiles, lse, *query.stride()[:3], *key.stride()[:3],
            first, heads, heads // key.shape[1], q_len, k_len, lag, q_strides, k_strides, columns,
            scale * LOG2_E / stride,
            HEAD_DIM=dim, STRIDE=stride, PER=BLOCK // stride, BLOCK_M=QUERY_STRIDES,
            BLOCK_N=launch.block_n, BLOCK_K=width,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32", TMA=tma,
            FAST=not interpreting(), LARGEST=largest,
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
        yield first, lse[:members]
