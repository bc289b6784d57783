"""From vertical and slash lines to lists of blocks, in Triton: the map of blocks is never written."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.keep import KeepPolicy
from method.ops.lists import check_gpu, list_warps


@triton.jit
def line_lists_kernel(
    columns_ptr, diagonals_ptr, newest_ptr, others_ptr, flag_ptr, index_ptr, count_ptr,
    q_len, k_len, rows, columns, diagonals,
    W: tl.constexpr, ROW: tl.constexpr, OTHERS: tl.constexpr, SINK: tl.constexpr,
    DIAGONAL: tl.constexpr, LAST_ROW: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, B * Hq)``: the blocks of one row on any line, of ``others``, or always kept."""
    row = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    # Everything from here on is [W]: one flag for each key block of the row.
    at = tl.arange(0, W)
    last = (tl.minimum((row + 1) * ROW, q_len) - 1 + k_len - q_len) // ROW
    live = at <= last
    chosen = tl.load(columns_ptr + head * columns + at, mask=live, other=0) != 0
    distance = tl.load(newest_ptr + row).to(tl.int32) - at
    inside = live & (distance >= 0) & (distance < diagonals)
    chosen |= tl.load(diagonals_ptr + head * diagonals + distance, mask=inside, other=0) != 0
    out = head * rows + row
    if OTHERS:
        wanted = live & (tl.load(flag_ptr + head) != 0)
        chosen |= tl.load(others_ptr + out * columns + at, mask=wanted, other=0) != 0
    if SINK:
        chosen |= at == 0
    if DIAGONAL:
        chosen |= at == last
    if LAST_ROW:
        chosen |= row == rows - 1
    kept = (chosen & live).to(tl.int32)
    tl.store(index_ptr + out * columns + tl.cumsum(kept, 0) - 1, at, mask=kept != 0)
    tl.store(count_ptr + out, tl.sum(kept, 0))


def line_lists(
    columns: Tensor,
    diagonals: Tensor,
    newest: Tensor,
    q_len: int,
    k_len: int,
    keep: KeepPolicy,
    *,
    others: Tensor | None = None,
    flags: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lists of what :func:`~method.ops.vertical_slash.selection.line_mask` keeps, without the map.

    Arguments as there, bool ones contiguous or not.

    Returns:
        int32 indices ``[B, Hq, rows, columns]`` and counts ``[B, Hq, rows]``.

    Raises:
        ValueError: the lines are not on a GPU.
    """
    check_gpu(columns, "line_lists")
    batch, heads, width = columns.shape
    rows = num_blocks(q_len)
    columns, diagonals = (lines.contiguous().view(torch.uint8) for lines in (columns, diagonals))
    chosen, wanted = columns, columns
    if others is not None and flags is not None:
        chosen, wanted = (part.contiguous().view(torch.uint8) for part in (others, flags))
    indices = torch.empty(batch, heads, rows, width, dtype=torch.int32, device=columns.device)
    counts = torch.empty(batch, heads, rows, dtype=torch.int32, device=columns.device)
    padded = max(16, triton.next_power_of_2(width))
    line_lists_kernel[(rows, batch * heads)](
        columns, diagonals, newest, chosen, wanted, indices, counts,
        q_len, k_len, rows, width, diagonals.shape[-1],
        W=padded, ROW=BLOCK, OTHERS=others is not None, SINK=keep.sink, DIAGONAL=keep.diagonal,
        LAST_ROW=keep.last_row, num_warps=list_warps(padded),
    )  # fmt: skip
    return indices, counts
