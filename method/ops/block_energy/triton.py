"""FlashPrefill's block energies in Triton: a program for each query block and head."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_qk
from method.ops.pooled.triton import mean_tiles_triton
from method.ops.triton_support import check_triton, padded_head, unit_stride

LOG2_E = 1.4426950408889634
COLUMNS = 64
"""Key blocks of one step."""


@triton.jit
def block_energies_kernel(
    q_ptr, mean_ptr, out_ptr, stride_b, stride_h, stride_l, heads, group, q_len, k_len, columns,
    factor, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, LOG2_E: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, B * Hq)``; ``mean_ptr`` is ``[B, Hkv, columns, HEAD_DIM]`` in q's dtype."""
    row, member = tl.program_id(0), tl.program_id(1)
    # q [BLOCK, PADDED] meets means [PADDED, COLUMNS]: logits [BLOCK, COLUMNS], energies [COLUMNS].
    token = row * BLOCK + tl.arange(0, BLOCK)
    dims = tl.arange(0, PADDED)
    at = q_ptr + (member // heads).to(tl.int64) * stride_b + (member % heads).to(tl.int64) * stride_h
    at += token.to(tl.int64)[:, None] * stride_l + dims[None, :]
    q = tl.load(at, mask=(token < q_len)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    position = tl.where(token < q_len, token + k_len - q_len, -1)
    kv = (member // heads) * (heads // group) + (member % heads) // group
    mean_ptr += kv.to(tl.int64) * columns * HEAD_DIM
    out_ptr += (member.to(tl.int64) * tl.num_programs(0) + row) * columns
    seen = (
        tl.minimum((row + 1) * BLOCK, q_len) + k_len - q_len
    ) // BLOCK  # whole blocks before the end
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        energy = tl.full([COLUMNS], float("-inf"), tl.float32)
        if start < seen:
            real = (column < columns)[None, :] & (dims < HEAD_DIM)[:, None]
            mean = tl.load(mean_ptr + column[None, :] * HEAD_DIM + dims[:, None], mask=real, other=0.0)
            logits = tl.dot(q, mean, input_precision="ieee") * factor
            behind = position[:, None] >= ((column + 1) * BLOCK - 1)[None, :]
            logits = tl.where(behind, logits, float("-inf"))
            most = tl.max(logits, 0)
            base = tl.where(most == float("-inf"), 0.0, most)
            total = tl.sum(tl.exp2(logits - base[None, :]), 0)
            some = tl.where(total > 0, total, 1.0)
            energy = tl.where(total > 0, (base + tl.log2(some)) / LOG2_E, float("-inf"))
        tl.store(out_ptr + column, energy, mask=column < columns)


def block_energies_triton(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """As :func:`method.ops.block_energy.torch.block_energies`, fp32; mean keys in the key's dtype.

    Raises:
        ValueError: shapes, lengths, device or head size do not fit.
        TypeError: a dtype does not fit.
    """
    check_qk(query, key)
    check_triton(query, "block_energies_triton")
    query = unit_stride(query)
    batch, heads, q_len, dim = query.shape
    k_len, rows = key.shape[2], num_blocks(q_len)
    means = mean_tiles_triton(key, BLOCK).to(key.dtype).contiguous()
    energies = query.new_empty(batch, heads, rows, means.shape[2], dtype=torch.float32)
    block_energies_kernel[(rows, batch * heads)](
        query, means, energies, *query.stride()[:3], heads, heads // key.shape[1], q_len, k_len,
        means.shape[2], scale * LOG2_E, HEAD_DIM=dim, PADDED=padded_head(dim), COLUMNS=COLUMNS,
        BLOCK=BLOCK, LOG2_E=LOG2_E, num_warps=8,
    )  # fmt: skip
    return energies
