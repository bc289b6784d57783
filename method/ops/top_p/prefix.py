"""Highest entries of long lists in Triton, without sorting: by their number or by their mass.

Kept are the entries that come first in descending order while their running total stays at or below
a limit; equal entries in the order of their positions. Entries are non-negative, so their bits order
as integers, and the lowest entry that is not kept is found eight ways at a time: every pass adds up
what lies at or above seven bit patterns, in pieces that all programs share out.
:mod:`method.ops.vertical_slash.selection` holds the readable twins, which sort.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.ops.triton_support import interpreting

PIECE = 4096
"""Entries per program, unless a list would take more than 128 programs."""

SHIFTS = (28, 25, 22, 19, 16, 13, 10, 7, 4, 1, 0)
"""Lowest bit that each pass decides; together all 31 bits of a non-negative number."""


@triton.jit
def _patterns(values_ptr, size, PIECE: tl.constexpr):
    """Entries of this program's piece as fp64 and as bits, -1 where the list is over."""
    # [PIECE].
    at = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    value = tl.load(values_ptr + tl.program_id(1).to(tl.int64) * size + at, mask=at < size, other=0.0)
    return value.to(tl.float64), tl.where(at < size, value.to(tl.int32, bitcast=True), -1)


@triton.jit
def _narrow(low_ptr, sums_ptr, limit_ptr, shift, PIECES: tl.constexpr):
    """The lowest entry that is not kept, known down to bit ``shift``; from the pass before."""
    item = tl.program_id(1)
    # Sums [PIECES, 8 ways] become totals [8]; way 0 is not used.
    piece, way = tl.arange(0, PIECES), tl.arange(0, 8)
    real = (piece < tl.num_programs(0))[:, None] & (way > 0)[None, :]
    ptrs = sums_ptr + (item.to(tl.int64) * tl.num_programs(0) + piece[:, None]) * 8 + way[None, :]
    total = tl.sum(tl.load(ptrs, mask=real, other=0.0), 0)
    # A pattern whose own and higher entries exceed the limit is at most that of the lowest one.
    over = (total > tl.load(limit_ptr + item)) & (way > 0)
    return tl.load(low_ptr + item) + (tl.sum(over.to(tl.int32), 0) << shift)


# One compilation serves every pass.
@triton.jit(do_not_specialize=["shift", "before"])
def prefix_pass_kernel(
    values_ptr, flag_ptr, limit_ptr, low_ptr, sums_ptr, next_low_ptr, next_sums_ptr, size, shift,
    before, FIRST: tl.constexpr, FLAGGED: tl.constexpr, COUNT: tl.constexpr, PIECE: tl.constexpr,
    PIECES: tl.constexpr,
):  # fmt: skip
    """Grid ``(pieces, lists)``: totals of the piece at or above seven patterns ``shift`` apart.

    ``before`` is the shift of the pass before, whose totals say where these patterns begin.
    """
    item = tl.program_id(1)
    wanted = 1
    if FLAGGED:
        wanted = tl.load(flag_ptr + item).to(tl.int32)
    if wanted != 0:
        low = tl.full([], 0, tl.int32)
        if not FIRST:
            low = _narrow(low_ptr, sums_ptr, limit_ptr, before, PIECES)
        value, bits = _patterns(values_ptr, size, PIECE)
        out = next_sums_ptr + (item.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 8
        for way in tl.static_range(1, 8):
            high = bits >= low + (way << shift)
            total = tl.sum(high.to(tl.int32), 0).to(tl.float64)
            if not COUNT:
                total = tl.sum(tl.where(high, value, 0.0), 0)
            tl.store(out + way, total)
        # Every program of a list computes the same.
        tl.store(next_low_ptr + item, low)


@triton.jit
def prefix_level_kernel(
    values_ptr, flag_ptr, limit_ptr, low_ptr, sums_ptr, level_ptr, totals_ptr, size,
    FLAGGED: tl.constexpr, COUNT: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Grid ``(pieces, lists)``: the piece's total and number above the level, and number at it."""
    item = tl.program_id(1)
    wanted = 1
    if FLAGGED:
        wanted = tl.load(flag_ptr + item).to(tl.int32)
    if wanted != 0:
        level = _narrow(low_ptr, sums_ptr, limit_ptr, 0, PIECES)
        value, bits = _patterns(values_ptr, size, PIECE)
        above = tl.sum((bits > level).to(tl.int32), 0).to(tl.float64)
        total = above
        if not COUNT:
            total = tl.sum(tl.where(bits > level, value, 0.0), 0)
        out = totals_ptr + (item.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 4
        tl.store(out, total)
        tl.store(out + 1, above)
        tl.store(out + 2, tl.sum((bits == level).to(tl.int32), 0).to(tl.float64))
        tl.store(level_ptr + item, level)


@triton.jit
def prefix_keep_kernel(
    values_ptr, flag_ptr, level_ptr, equal_ptr, totals_ptr, keep_ptr, size,
    FLAGGED: tl.constexpr, PIECE: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Grid ``(pieces, lists)``: which entries are kept; ``equal`` of those at the level are."""
    item = tl.program_id(1)
    wanted = 1
    if FLAGGED:
        wanted = tl.load(flag_ptr + item).to(tl.int32)
    if wanted != 0:
        level = tl.load(level_ptr + item)
        _, bits = _patterns(values_ptr, size, PIECE)
        piece = tl.arange(0, PIECES)
        ptrs = totals_ptr + (item.to(tl.int64) * tl.num_programs(0) + piece) * 4 + 2
        before = tl.sum(tl.load(ptrs, mask=piece < tl.program_id(0), other=0.0), 0)
        same = bits == level
        order = tl.cumsum(same.to(tl.int32), 0) - 1 + before.to(tl.int32)
        keep = (bits > level) | (same & (order < tl.load(equal_ptr + item)))
        at = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
        out = keep_ptr + item.to(tl.int64) * size + at
        tl.store(out, keep.to(tl.int8), mask=at < size)


def sizes_of(size: int) -> dict[str, int]:
    """Launch settings for lists of ``size`` entries."""
    piece = min(max(PIECE, triton.next_power_of_2(triton.cdiv(size, 128))), 8 * PIECE)
    pieces = triton.next_power_of_2(triton.cdiv(size, piece))
    return {"PIECE": piece, "PIECES": pieces, "num_warps": min(piece // 1024, 16)}


@dataclass(frozen=True)
class Prefix:
    """The entries of every list that fit under its limit, taken in descending order.

    Attributes:
        values: fp32 ``[N, size]``, contiguous.
        level: int32 ``[N]``, bits of the lowest entry that is kept in part or not at all.
        equal: int32 ``[N]``, how many entries of that value are kept.
        totals: fp64 ``[N, pieces, 4]``; per piece the total and number above the level, and the
            number at it.
        flags: bool ``[N]``, lists that were searched; None for all. The rest of the others is
            unspecified.
    """

    values: Tensor
    level: Tensor
    equal: Tensor
    totals: Tensor
    flags: Tensor | None

    def counts(self) -> Tensor:
        """How many entries are kept: int64 ``[N]``."""
        return self.totals[:, :, 1].sum(1).long() + self.equal

    def keep(self) -> Tensor:
        """Which entries are kept: bool ``[N, size]``."""
        number, size = self.values.shape
        keep = torch.empty(number, size, dtype=torch.bool, device=self.values.device)
        flags = self.level if self.flags is None else self.flags.view(torch.uint8)
        prefix_keep_kernel[(self.totals.shape[1], number)](
            self.values, flags, self.level, self.equal, self.totals, keep.view(torch.int8), size,
            FLAGGED=self.flags is not None, **sizes_of(size),
        )  # fmt: skip
        return keep


def find_prefix(values: Tensor, limit: Tensor, *, count: bool, flags: Tensor | None = None) -> Prefix:
    """Search lists for their highest entries, without waiting for the device.

    Totals are taken in fp64, in another order than a sort's running total: one entry can differ where
    the total meets the limit to within fp64 rounding.

    Args:
        values: fp32 ``[N, size]``, contiguous, non-negative.
        limit: fp64 ``[N]``, at least 0: the running total that kept entries may reach.
        count: the total is the number of entries, not their sum.
        flags: bool ``[N]``, the lists to search; None for all.

    Raises:
        ValueError: the values are not fp32, not contiguous or not on a GPU.
    """
    if values.dtype != torch.float32 or values.dim() != 2 or not values.is_contiguous():
        raise ValueError(f"find_prefix needs contiguous float32 lists, got {values.dtype}")
    if not values.is_cuda and not interpreting():
        raise ValueError("find_prefix needs CUDA tensors, or TRITON_INTERPRET=1")
    (number, size), device = values.shape, values.device
    sizes: dict[str, Any] = {"FLAGGED": flags is not None, "COUNT": count, **sizes_of(size)}
    pieces = triton.cdiv(size, sizes["PIECE"])
    sums = torch.empty(len(SHIFTS), number, pieces, 8, dtype=torch.float64, device=device)
    lows = torch.empty(len(SHIFTS) + 1, number, dtype=torch.int32, device=device)
    totals = torch.empty(number, pieces, 4, dtype=torch.float64, device=device)
    chosen = flags.view(torch.uint8) if flags is not None else lows
    for step, shift in enumerate(SHIFTS):
        last = max(step - 1, 0)
        prefix_pass_kernel[(pieces, number)](
            values, chosen, limit, lows[last], sums[last], lows[step], sums[step], size, shift,
            SHIFTS[last], FIRST=step == 0, **sizes,
        )  # fmt: skip
    prefix_level_kernel[(pieces, number)](
        values, chosen, limit, lows[-2], sums[-1], lows[-1], totals, size, **sizes
    )
    room = limit - totals[:, :, 0].sum(1)
    value = torch.ones_like(limit) if count else lows[-1].view(torch.float32).double()
    # Entries of 0 add nothing: all of them fit.
    equal = torch.where(value > 0, (room / value).floor().clamp(max=size), float(size))
    equal = torch.minimum(equal, totals[:, :, 2].sum(1)).int()
    return Prefix(values, lows[-1], equal, totals, flags)
