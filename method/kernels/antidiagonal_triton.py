"""XAttention's estimate of block importance in Triton.

A matrix product over whole strides costs 1 / (2 S) of dense attention, too much to do it twice for
a softmax in two passes. So the first kernel leaves one number for every (query stride, key block),
the log-sum-exp of its logits, and the second one turns these into probabilities and block scores.
:mod:`method.kernels.antidiagonal` is the readable twin and explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.kernels.antidiagonal import check_reduction, stride_lag
from method.kernels.checks import check_qk
from method.kernels.triton_support import Launch, capability, check_triton, unit_stride

LOG2_E = 1.4426950408889634
QUERY_STRIDES = 128
_GROUP = 8
_CHUNK_SUMS = 1 << 28


def launch_antidiagonal(chip: int, dtype: torch.dtype) -> Launch:
    """Launch settings on a chip of capability ``chip`` (0: the interpreter).

    The wide tile of 9.0 and 10.0 is what the tensor cores need there: a narrower one spends its
    time on reading keys again.
    """
    if dtype == torch.float32 or not chip:
        return Launch(128, 8, 1)
    if 90 <= chip < 120:
        return Launch(256, 8, 3)
    return Launch(128, 8, 3 if chip == 80 else 2)


def inner_step(head_dim: int, dtype: torch.dtype) -> int:
    """Features multiplied at a time: a divisor of every supported head size."""
    return 64 if head_dim % 64 == 0 and dtype != torch.float32 else 32


@triton.jit
def block_lse_kernel(
    q_ptr, k_ptr, tiles_ptr, lse_ptr,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    first, heads, group, q_len, k_len, lag, q_strides, k_strides, columns, factor,
    HEAD_DIM: tl.constexpr, STRIDE: tl.constexpr, PER: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles, heads of this call)``; ``PER = 128 / S`` strides per block.

    Writes the base-2 log-sum-exp of every query stride over each key block of the tile,
    ``[heads of this call, q_strides, columns]``.
    """
    tile_m = tl.load(tiles_ptr + 2 * tl.program_id(0))
    tile_n = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    item = ((first + tl.program_id(1)) // heads).to(tl.int64)
    head = ((first + tl.program_id(1)) % heads).to(tl.int64)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_K)
    q_token = rows * STRIDE + STRIDE - 1
    k_token = cols * STRIDE
    q_ptrs = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs += q_token.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    k_ptrs = k_ptr + item * stride_kb + (head // group) * stride_kh
    k_ptrs += k_token.to(tl.int64)[None, :] * stride_kl + dims[:, None]
    dots = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    pieces: tl.constexpr = HEAD_DIM // BLOCK_K
    # One flat loop, so that it is pipelined in steps of BLOCK_K features.
    for step in range(0, STRIDE * pieces):
        token = step // pieces
        start = (step % pieces) * BLOCK_K
        q_real = (q_token - token < q_len)[:, None]
        k_real = (k_token + token < k_len)[None, :]
        q = tl.load(q_ptrs + (start - token * stride_ql), mask=q_real, other=0.0)
        k = tl.load(k_ptrs + (start + token * stride_kl), mask=k_real, other=0.0)
        dots = tl.dot(q, k, dots, input_precision=PRECISION)
    seen = (cols[None, :] <= rows[:, None] + lag) & (cols < k_strides)[None, :]
    logits = tl.where(seen, dots * factor, float("-inf"))
    by_block = tl.reshape(logits, (BLOCK_M, BLOCK_N // PER, PER))
    peak = tl.max(by_block, 2)
    # Where nothing is seen, 0 in place of -inf keeps the arithmetic finite.
    empty = peak == float("-inf")
    base = tl.where(empty, 0.0, peak)
    total = tl.sum(tl.exp2(by_block - base[:, :, None]), 2)
    lse = tl.where(empty, float("-inf"), base + tl.log2(tl.where(empty, 1.0, total)))
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
        # Block 0 is visible to every stride, so the peak is finite from the first chunk on.
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


def causal_tiles(q_strides: int, k_strides: int, lag: int, block_n: int) -> Tensor:
    """Tiles (m, n) with a visible cell, as int32 ``[tiles, 2]`` on the CPU.

    Groups of eight query tiles walk the key tiles together, so that those are read from the cache.
    """
    count = -(-q_strides // QUERY_STRIDES)
    ends = torch.clamp((torch.arange(count) + 1) * QUERY_STRIDES, max=q_strides) + lag
    widths = (torch.clamp(ends, max=k_strides) + block_n - 1) // block_n
    groups = -(-count // _GROUP)
    widths = torch.nn.functional.pad(widths, (0, groups * _GROUP - count)).view(groups, 1, _GROUP)
    wanted = torch.arange(int(widths.max()))[None, :, None] < widths
    group, n, member = wanted.nonzero().unbind(1)
    return torch.stack([group * _GROUP + member, n], 1).to(torch.int32)


def antidiagonal_scores_triton(
    query: Tensor, key: Tensor, *, scale: float, stride: int, reduction: str = "sum"
) -> Tensor:
    """Estimated attention mass of every (query row, key block), on the GPU.

    Same arguments, errors and result as :func:`method.kernels.antidiagonal.antidiagonal_scores`,
    for bf16, fp16 and fp32 with head size 64, 96 or 128. Works on as many heads at a time as fit
    into 1 GiB of intermediate sums (at least one).

    Returns:
        fp32 ``[B, Hq, rows, columns]``.
    """
    check_qk(query, key)
    check_reduction(reduction)
    check_triton(query, "antidiagonal_scores_triton")
    query, key = unit_stride(query), unit_stride(key)
    batch, heads, q_len, dim = query.shape
    k_len, per = key.shape[2], BLOCK // stride
    rows, columns = num_blocks(q_len), num_blocks(k_len)
    q_strides, k_strides, lag = (
        -(-q_len // stride),
        -(-k_len // stride),
        stride_lag(q_len, k_len, stride),
    )
    launch = launch_antidiagonal(capability(query.device), query.dtype)
    tiles = causal_tiles(q_strides, k_strides, lag, launch.block_n).to(query.device)
    # Zeros, because blocks above the diagonal are never visited.
    scores = query.new_zeros(batch, heads, rows, columns, dtype=torch.float32)
    together = min(batch * heads, max(1, _CHUNK_SUMS // (q_strides * columns)))
    lse = query.new_empty(together, q_strides, columns, dtype=torch.float32)
    for first in range(0, batch * heads, together):
        members = min(together, batch * heads - first)
        block_lse_kernel[(tiles.shape[0], members)](
            query, key, tiles, lse, *query.stride()[:3], *key.stride()[:3],
            first, heads, heads // key.shape[1], q_len, k_len, lag, q_strides, k_strides, columns,
            scale * LOG2_E / stride,
            HEAD_DIM=dim, STRIDE=stride, PER=per, BLOCK_M=QUERY_STRIDES, BLOCK_N=launch.block_n,
            BLOCK_K=inner_step(dim, query.dtype),
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
        block_mass_kernel[(rows, members)](
            lse, scores, first, lag, q_strides, rows, columns,
            PER=per, CHUNK=max(32, 2048 // per), MAXIMUM=reduction == "max",
        )  # fmt: skip
    return scores
