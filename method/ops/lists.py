"""From a boolean block map to lists of blocks, in Triton: a prefix sum instead of a sort."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.ops.launch import Ready, kept
from method.ops.triton_support import interpreting


@triton.jit
def map_lists_kernel(map_ptr, index_ptr, count_ptr, columns, W: tl.constexpr):
    """Grid ``(rows of all heads)``: kept columns ascending, then the others ascending."""
    row = tl.program_id(0).to(tl.int64)
    # All [W]: one entry for each column, and its place in the list.
    at = tl.arange(0, W)
    kept = tl.load(map_ptr + row * columns + at, mask=at < columns, other=0).to(tl.int32)
    count = tl.sum(kept, 0)
    ahead = tl.cumsum(kept, 0)
    place = tl.where(kept != 0, ahead - 1, count + at - ahead)
    tl.store(index_ptr + row * columns + place, at, mask=at < columns)
    tl.store(count_ptr + row, count)


def map_lists(keep: Tensor) -> tuple[Tensor, Tensor]:
    """What :meth:`method.blocks.BlockMask.from_map` holds, on the GPU.

    Args:
        keep: bool ``[B, Hq, rows, columns]``.

    Returns:
        int32 indices ``[B, Hq, rows, columns]`` and counts ``[B, Hq, rows]``.

    Raises:
        ValueError: the map is not on a GPU.
    """
    check_gpu(keep, "map_lists")
    keep = keep.contiguous()
    columns = keep.shape[-1]
    indices = torch.empty(keep.shape, dtype=torch.int32, device=keep.device)
    counts = torch.empty(keep.shape[:-1], dtype=torch.int32, device=keep.device)
    width = triton.next_power_of_2(columns)
    map_lists_kernel[(counts.numel(),)](
        keep.view(torch.uint8),
        indices,
        counts,
        columns,
        W=width,
        num_warps=list_warps(width),
    )
    return indices, counts


@triton.jit
def add_share(count, tally_ptr, share_ptr, head, rows, total):
    """Add a row's count of blocks to its head's. The last of the head's ``rows`` to come leaves the sum
    over ``total`` and puts the tally, int64 and 0 before the first row, back to 0.
    """
    # The upper half of the tally counts rows, the lower half blocks.
    own = count.to(tl.int64) + (1 << 32)
    sum = tl.atomic_add(tally_ptr + head, own) + own
    if (sum >> 32) == rows:
        blocks = sum & 0xFFFFFFFF
        tl.store(share_ptr + head, tl.div_rn(blocks.to(tl.float32), total))
        tl.store(tally_ptr + head, 0)


@triton.jit
def share_kernel(count_ptr, share_ptr, rows, total, W: tl.constexpr):
    """Grid ``(B * Hq)``: sum of a head's counts over ``total``."""
    head = tl.program_id(0).to(tl.int64)
    kept = tl.zeros([W], tl.int64)
    for first in range(0, rows, W):
        at = first + tl.arange(0, W)
        kept += tl.load(count_ptr + head * rows + at, mask=at < rows, other=0)
    tl.store(share_ptr + head, tl.div_rn(tl.sum(kept, 0).to(tl.float32), total))


def share_of_blocks(counts: Tensor, total: int) -> Tensor:
    """Sum of int32 ``[B, Hq, rows]`` over the rows, as a share of ``total``: fp32 ``[B, Hq]``.

    Raises:
        ValueError: the counts are not on a GPU.
    """
    check_gpu(counts, "share_of_blocks")
    launch = kept("share_of_blocks", (counts,), total, lambda: _share(counts, total))
    shares = torch.empty(counts.shape[:2], dtype=torch.float32, device=counts.device)
    launch(counts.contiguous(), shares)
    return shares


def _share(counts: Tensor, total: int) -> Ready:
    batch, heads, rows = counts.shape
    return Ready(share_kernel, (batch * heads,), (rows, float(total)), {"W": 128})


def list_warps(width: int) -> int:
    """Warps of a program that makes a list of ``width`` columns."""
    return min(8, max(1, width // 512))


def check_gpu(tensor: Tensor, what: str) -> None:
    """Raise ``ValueError`` unless Triton can run on the tensor's device."""
    if not tensor.is_cuda and not interpreting():
        raise ValueError(f"{what} needs a CUDA tensor, or TRITON_INTERPRET=1")
