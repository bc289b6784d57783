"""Mean vectors of blocks and the attention map between them, in Triton, for some heads of many.

:func:`method.ops.vertical_slash.torch.mean_tiles` and
:func:`method.ops.pooled.torch.pooled_weights` are the readable twins.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK
from method.ops.triton_support import check_triton, padded_head, unit_stride

LOG2_E = 1.4426950408889634
ROWS, COLUMNS = 32, 32
"""Query and key blocks of one step of the pooled attention map."""


@triton.jit
def mean_tiles_kernel(
    in_ptr, flag_ptr, out_ptr, stride_b, stride_h, stride_l, heads, length,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr, FLAGGED: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles, B * H)``: the mean of ``SIZE`` tokens, or of what is left of them."""
    member = tl.program_id(1)
    wanted = 1
    if FLAGGED:
        wanted = tl.load(flag_ptr + member).to(tl.int32)
    if wanted != 0:
        first = tl.program_id(0) * SIZE
        # Tokens [SIZE, PADDED] become one mean [PADDED].
        token = first + tl.arange(0, SIZE)
        dims = tl.arange(0, PADDED)
        ptrs = in_ptr + (member // heads).to(tl.int64) * stride_b
        ptrs += (member % heads).to(tl.int64) * stride_h
        ptrs += token.to(tl.int64)[:, None] * stride_l + dims[None, :]
        real = (token < length)[:, None] & (dims < HEAD_DIM)[None, :]
        total = tl.sum(tl.load(ptrs, mask=real, other=0.0).to(tl.float32), 0)
        mean = total / tl.minimum(length - first, SIZE)
        out = out_ptr + (member.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * HEAD_DIM
        tl.store(out + dims, mean, mask=dims < HEAD_DIM)


@triton.jit
def _pooled_logits(q, k_ptr, start, columns, newest, factor,
                   HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Base-2 logits of some query blocks against key blocks from ``start`` on, -inf in the future."""
    # q is [ROWS, PADDED], k [PADDED, COLUMNS]; the logits are [ROWS, COLUMNS].
    at = start + tl.arange(0, COLUMNS)
    dims = tl.arange(0, PADDED)
    real = (at < columns)[None, :] & (dims < HEAD_DIM)[:, None]
    k = tl.load(k_ptr + at[None, :] * HEAD_DIM + dims[:, None], mask=real, other=0.0)
    logits = tl.dot(q, k, input_precision="ieee") * factor
    return tl.where(at[None, :] <= newest[:, None], logits, float("-inf"))


@triton.jit
def pooled_weights_kernel(
    rows_ptr, columns_ptr, flag_ptr, out_ptr, group, q_len, k_len, rows, columns, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles of query blocks, B * Hq)``: causal softmax over key blocks, for flagged heads."""
    head = tl.program_id(1)
    if tl.load(flag_ptr + head) != 0:
        # Query blocks [ROWS], the newest key block that each sees, and their means [ROWS, PADDED].
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        dims = tl.arange(0, PADDED)
        newest = (tl.minimum((row + 1) * BLOCK, q_len) - 1 + k_len - q_len) // BLOCK
        q_ptrs = (
            rows_ptr + head.to(tl.int64) * rows * HEAD_DIM + row[:, None] * HEAD_DIM + dims[None, :]
        )
        real = (row < rows)[:, None] & (dims < HEAD_DIM)[None, :]
        q = tl.load(q_ptrs, mask=real, other=0.0)
        keys = columns_ptr + (head // group).to(tl.int64) * columns * HEAD_DIM
        reach = tl.max(newest, 0) + 1
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        norm = tl.zeros([ROWS], tl.float32)
        # Key block 0 is visible to every row, so the peak is finite from the first step on.
        for start in range(0, reach, COLUMNS):
            logits = _pooled_logits(
                q, keys, start, columns, newest, factor, HEAD_DIM, PADDED, COLUMNS
            )  # fmt: skip
            new_peak = tl.maximum(peak, tl.max(logits, 1))
            norm = norm * tl.exp2(peak - new_peak) + tl.sum(tl.exp2(logits - new_peak[:, None]), 1)
            peak = new_peak
        out = out_ptr + (head.to(tl.int64) * rows + row.to(tl.int64)[:, None]) * columns
        for start in range(0, columns, COLUMNS):
            logits = _pooled_logits(
                q, keys, start, columns, newest, factor, HEAD_DIM, PADDED, COLUMNS
            )  # fmt: skip
            at = start + tl.arange(0, COLUMNS)
            weights = tl.exp2(logits - peak[:, None]) / norm[:, None]
            tl.store(out + at[None, :], weights, mask=(row < rows)[:, None] & (at < columns)[None, :])


def mean_tiles_triton(tensor: Tensor, size: int, flags: Tensor | None = None) -> Tensor:
    """Mean vector of every ``size`` tokens: fp32 ``[B, H, ceil(L / size), D]``.

    Args:
        tensor: ``[B, H, L, D]``, bf16, fp16 or fp32 with head size 64, 96 or 128, any strides.
        size: a power of two.
        flags: bool ``[B, H]``, the heads wanted; None for all. The others stay unspecified.

    Raises:
        ValueError: the device or the head size is not supported.
        TypeError: the dtype is not supported.
    """
    check_triton(tensor, "mean_tiles_triton")
    tensor = unit_stride(tensor)
    batch, heads, length, dim = tensor.shape
    tiles = triton.cdiv(length, size)
    means = tensor.new_empty(batch, heads, tiles, dim, dtype=torch.float32)
    mean_tiles_kernel[(tiles, batch * heads)](
        tensor, means if flags is None else flags.view(torch.uint8), means,
        *tensor.stride()[:3], heads, length,
        HEAD_DIM=dim, PADDED=padded_head(dim), SIZE=size, FLAGGED=flags is not None,
    )  # fmt: skip
    return means


def pooled_weights_triton(
    rows: Tensor, columns: Tensor, flags: Tensor, scale: float, q_len: int, k_len: int
) -> Tensor:
    """Causal softmax over key blocks, for the heads that are flagged.

    Args:
        rows: mean queries, fp32 ``[B, Hq, rows, D]``, contiguous.
        columns: mean keys, fp32 ``[B, Hkv, columns, D]``, contiguous.
        flags: bool ``[B, Hq]``, contiguous.
        scale: factor on the logits.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        fp32 ``[B, Hq, rows, columns]``, 0 in the future; unspecified for other heads.
    """
    check_triton(rows, "pooled_weights_triton")
    batch, heads, count, dim = rows.shape
    width = columns.shape[2]
    weights = rows.new_empty(batch, heads, count, width)
    pooled_weights_kernel[(triton.cdiv(count, ROWS), batch * heads)](
        rows, columns, flags.view(torch.uint8), weights, heads // columns.shape[1],
        q_len, k_len, count, width, scale * LOG2_E,
        HEAD_DIM=dim, PADDED=padded_head(dim), ROWS=ROWS, COLUMNS=COLUMNS, BLOCK=BLOCK,
        num_stages=1,
    )  # fmt: skip
    return weights
