"""Top-τ selection in Triton: from block scores to the lists of kept blocks, without sorting.

One program takes one query row of one head. Sorting is replaced by a search for the lowest score
that is still kept: scores are non-negative, so their bits order as integers, and halving the range
of bit patterns finds it exactly in at most 31 sums; rows of one warp in a third of these, as each step
skips the patterns that no score has. The list is emitted by a prefix sum.
:mod:`method.ops.top_p.torch` is the readable twin and explains the three rules.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from method.blocks import BLOCK, BlockMask, check_lengths, num_blocks
from method.density import causal_blocks
from method.keep import KeepPolicy
from method.ops.launch import Ready, kept, stream_of
from method.ops.lists import add_share
from method.ops.triton_support import interpreting, overlaps

LANE_SCORES = 16
"""Scores one lane of a warp holds in registers."""

_ONE_WARP = tl.constexpr(32 * LANE_SCORES)
"""Columns that one warp holds: more make every reduction an exchange between warps."""

_NARROWEST = 256
"""Columns of the narrowest kernel; rows that see more go to one of twice the width, and so on."""


@triton.jit
def _top(mass, live, paying, share, more, W: tl.constexpr, WORK: tl.constexpr, PAY: tl.constexpr):
    """Blocks of one row that hold ``share`` of its mass, the blocks that pay first left out.

    ``mass`` is fp32 ``[W]``, the row's scores; ``live`` bool ``[W]``, the visible blocks; ``paying``
    bool ``[W]``, those whose mass counts first if ``PAY``; ``more`` is 1 to take the next block too.
    """
    exact = tl.where(live, mass, 0.0).to(WORK)
    total = tl.sum(exact, 0)
    need = share.to(WORK) * total
    ranked = live
    if PAY:
        need -= tl.sum(tl.where(paying, exact, 0.0), 0)
        ranked = live & (paying == 0)
    bits = tl.where(ranked, mass.to(tl.int32, bitcast=True), -1)
    amount = tl.where(ranked, exact, 0.0)
    # The lowest bit pattern above which less than `need` lies. Above the highest lies nothing.
    high = tl.maximum(tl.max(bits, 0), 0)
    # Were all scores at most `floor`, leaving them out would cost half of what may be left out.
    floor = ((tl.sum(amount, 0) - need) * (0.5 / W)).to(tl.float32)
    low = tl.where(floor > 0, floor.to(tl.int32, bitcast=True), 0)
    low = tl.minimum(low, high)
    while low < high:
        middle = low + (high - low) // 2
        higher = bits > middle
        above = tl.sum(tl.where(higher, amount, 0.0), 0)
        down, up = middle, middle + 1
        if W <= _ONE_WARP:
            # Between two neighbouring scores nothing changes, so either end moves on to the next.
            down = tl.maximum(tl.max(tl.where(higher, -1, bits), 0), low)
            up = tl.min(tl.where(higher, bits, high), 0)
        enough = above < need
        high = tl.where(enough, down, high)
        low = tl.where(enough, low, up)
    above = tl.sum(tl.where(bits > low, amount, 0.0), 0)
    level = bits == low
    # Among equals the earlier block comes first.
    order = tl.cumsum(level.to(tl.int32), 0) - 1
    value = tl.max(tl.where(level, exact, 0.0), 0)
    before = tl.where(level, above + order.to(WORK) * value, 0.0)
    chosen = (bits >= low) & (before < need)
    if PAY:
        # The next block in rank: the highest of those left, the earliest among equals.
        left = tl.where(chosen, -1, bits)
        following = (left >= 0) & (left == tl.max(left, 0))
        room = tl.where(total > 0, more, 0)
        chosen = chosen | (following & (tl.cumsum(following.to(tl.int32), 0) <= room))
    return chosen


@triton.jit
def select_kernel(
    scores_ptr, share_ptr, index_ptr, count_ptr, tally_ptr, density_ptr,
    first, heads, q_len, k_len, rows, columns, released_rows, total,
    W: tl.constexpr, ROW: tl.constexpr, WORK: tl.constexpr, PAY: tl.constexpr,
    SINK: tl.constexpr, DIAGONAL: tl.constexpr, LAST_ROW: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows from first on, B * Hq)``; scores and lists are ``[B, Hq, rows, columns]``.

    None of these rows sees more than ``W`` columns. ``PAY``: always-kept blocks pay first; rows with
    the diagonal before ``released_rows`` follow the released rule. A head's density, its blocks over
    ``total``, is there when all its rows are.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = first + tl.num_programs(0) - 1 - tl.program_id(0)
    member = tl.program_id(1)
    # Everything below that is no scalar is [W]: one entry for each key block of the row.
    at = tl.arange(0, W)
    newest = (tl.minimum((row + 1) * ROW, q_len) - 1 + k_len - q_len) // ROW
    live = at <= newest
    out = member.to(tl.int64) * rows + row
    line = scores_ptr + out * columns
    mass = tl.load(line + at, mask=live, other=0.0)
    share = tl.load(share_ptr + member % heads)
    kept = at < 0
    early = (newest < released_rows).to(tl.int32)
    # Bool [W]: blocks that are always kept, and those of them that pay first.
    paying = at < 0
    if SINK:
        kept = at == 0
        paying = (at == 0) & (early == 0)
    if DIAGONAL:
        kept = kept | (at == newest)
        paying = paying | (at == newest)
    # Blocks from here on are kept whatever their score.
    everything = tl.where(share >= 1.0, 0, W)
    if LAST_ROW:
        everything = tl.where(row == rows - 1, 0, everything)
    chosen = _top(mass, live, paying, share, early, W, WORK, PAY) | kept | (at >= everything)
    chosen = chosen & live
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(index_ptr + out * columns + place, at, mask=chosen)
    count = tl.sum(chosen.to(tl.int32), 0)
    tl.store(count_ptr + out, count)
    add_share(count, tally_ptr, density_ptr, member, rows, total)


def widths(rows: int, columns: int, shift: int) -> list[tuple[int, int, int]]:
    """Width of the kernel, first row and end of each launch, the widest first."""
    parts = []
    width, first = min(_NARROWEST, max(16, triton.next_power_of_2(columns))), 0
    while first < rows:
        end = rows if width >= columns else min(rows, max(first, width - -(-shift // BLOCK)))
        if end > first:
            parts.append((width, first, end))
        width, first = 2 * width, end
    return parts[::-1]


def shares(tau: float | Sequence[float], heads: int, device: torch.device) -> Tensor:
    """``tau`` as fp64 ``[Hq]`` on the device; without waiting for it if it is one number."""
    if isinstance(tau, int | float):
        return torch.full((heads,), float(tau), dtype=torch.float64, device=device)
    return torch.tensor(list(tau), dtype=torch.float64, device=device)


def select_blocks_triton(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None = None,
) -> BlockMask:
    """Top-τ selection on the GPU: the mask of :func:`method.ops.top_p.torch.select_blocks`.

    Sums are taken in fp64, in another order than the twin's: a block can differ only where the mass
    before it meets the share to within fp64 rounding (about 1 part in 10^15).

    Args:
        scores: fp32 ``[B, Hq, rows, columns]``, contiguous, non-negative; what lies above the
            diagonal is not read.
        q_len: query tokens.
        k_len: key tokens.
        tau: share of the mass, one number or one for each head.
        selector: one of :data:`method.ops.top_p.torch.SELECTORS`.
        keep: blocks that are always kept.
        released_rows: see :func:`method.ops.top_p.torch.select_blocks`.

    Raises:
        ValueError: scores are not fp32, not contiguous, or for other lengths; or not on a GPU.
    """
    shares_of = tau if isinstance(tau, int | float) else tuple(tau)
    options = q_len, k_len, shares_of, selector, keep, released_rows
    at = stream_of(scores.device) if scores.is_cuda else 0
    launches, share, tally = kept(
        "top_p", (scores,), (*options, at), lambda: _prepare(scores, *options)
    )
    indices = torch.empty(scores.shape, dtype=torch.int32, device=scores.device)
    counts = torch.empty(scores.shape[:3], dtype=torch.int32, device=scores.device)
    density = torch.empty(scores.shape[:2], dtype=torch.float32, device=scores.device)
    for launch in launches:
        launch(scores, share, indices, counts, tally, density)
    return BlockMask(indices, counts, q_len, k_len, density)


def _prepare(
    scores: Tensor,
    q_len: int,
    k_len: int,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None,
) -> tuple[list[Ready], Tensor, Tensor]:
    """The launches for such scores, the shares that the heads keep, and zeros to count blocks in.

    Launches on one stream may share these, which the last row puts back to zero.
    """
    batch, heads, rows, columns = scores.shape
    if (rows, columns) != (num_blocks(q_len), num_blocks(k_len)):
        raise ValueError(f"scores {tuple(scores.shape)} do not fit q_len={q_len}, k_len={k_len}")
    if scores.dtype != torch.float32 or not scores.is_contiguous():
        raise ValueError(f"select_blocks_triton needs contiguous float32 scores, got {scores.dtype}")
    if not scores.is_cuda and not interpreting():
        raise ValueError("select_blocks_triton needs CUDA tensors, or TRITON_INTERPRET=1")
    check_lengths(q_len, k_len)
    overlap = overlaps(scores.device)
    early = columns if released_rows is None else released_rows
    early = early if selector == "released" else 0
    launches = [
        Ready(
            select_kernel,
            (end - first, batch * heads),
            (first, heads, q_len, k_len, rows, columns, early, float(causal_blocks(q_len, k_len))),
            {
                "W": width, "ROW": BLOCK, "WORK": tl.float64, "PAY": selector != "top_p",
                "SINK": keep.sink, "DIAGONAL": keep.diagonal, "LAST_ROW": keep.last_row,
                "OVERLAP": overlap, "launch_pdl": overlap,
                "num_warps": max(1, width // (32 * LANE_SCORES)),
            },
        )
        for width, first, end in widths(rows, columns, k_len - q_len)
    ]  # fmt: skip
    tally = torch.zeros(batch * heads, dtype=torch.int64, device=scores.device)
    return launches, shares(tau, heads, scores.device), tally
