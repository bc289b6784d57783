"""What MInference computes at its own granularity, as lists: ranges of 64 keys, and single keys.

The walk over the chosen distances is a chain of dependent steps, so every lane of a program takes one
query tile. :mod:`method.ops.vertical_slash.torch` is the readable twin and explains the rules;
:mod:`method.ops.vertical_slash.triton` attends over these lists.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.keep import KeepPolicy
from method.ops.lists import map_lists
from method.ops.vertical_slash.torch import TILE, tile_rows

LANES = 32
_CHUNK = 1024


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def line_index_kernel(
    columns_ptr, slashes_ptr, reach_ptr, single_ptr, number_ptr, k_len, most, CHUNK: tl.constexpr
):
    """Grid ``(N,)``: the longest chosen distance up to each one, or -1, and the chosen keys."""
    row = tl.program_id(0).to(tl.int64) * k_len
    singles = single_ptr + tl.program_id(0).to(tl.int64) * most
    longest = tl.full([], -1, tl.int32)
    number = tl.full([], 0, tl.int32)
    for start in range(0, k_len, CHUNK):
        # All [CHUNK]: keys and, by the same index, distances.
        at = start + tl.arange(0, CHUNK)
        slash = tl.load(slashes_ptr + row + at, mask=at < k_len, other=0)
        distance = tl.where(slash != 0, at, -1)
        reach = tl.maximum(tl.associative_scan(distance, 0, _larger), longest)
        tl.store(reach_ptr + row + at, reach, mask=at < k_len)
        longest = tl.maximum(longest, tl.max(distance, 0))
        column = (tl.load(columns_ptr + row + at, mask=at < k_len, other=0) != 0).to(tl.int32)
        tl.store(singles + number + tl.cumsum(column, 0) - 1, at, mask=column != 0)
        number += tl.sum(column, 0)
    tl.store(number_ptr + tl.program_id(0), number)


@triton.jit
def walk_kernel(
    reach_ptr, start_ptr, range_ptr, tiles, steps, q_len, k_len,
    TILE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles / LANES, N)``: range starts ``[N, tiles, steps]`` and how many, ``[N, tiles]``."""
    # One lane a query tile: everything here is [LANES], and the lanes walk together.
    tile = tl.program_id(0) * LANES + tl.arange(0, LANES)
    out = tl.program_id(1).to(tl.int64) * tiles + tile
    reach = reach_ptr + tl.program_id(1).to(tl.int64) * k_len
    end_of_tile = (tile + 1) * TILE + k_len - q_len
    at = tl.zeros([LANES], tl.int32)
    number = tl.zeros([LANES], tl.int32)
    live = (tile < tiles).to(tl.int32)
    while tl.max(live, 0) != 0:
        left = end_of_tile - at - 1
        asked = (live != 0) & (left >= 0)
        distance = tl.load(reach + tl.minimum(left, k_len - 1), mask=asked, other=-1)
        live = (distance >= 0).to(tl.int32)
        end = tl.maximum(end_of_tile - distance, TILE)
        start = tl.where(end <= at + TILE, at, end - TILE)
        tl.store(start_ptr + out * steps + number, start, mask=live != 0)
        at = tl.where(live != 0, start + TILE, at)
        number += live
    tl.store(range_ptr + out, number, mask=tile < tiles)


@triton.jit
def _in_ranges(key, wanted, starts, number, TILE: tl.constexpr):
    """Whether keys lie in one of ``number`` ranges with ascending starts."""
    low = tl.zeros_like(key)
    high = low + number
    # The number of starts at or before each key, by halving.
    span = number
    while span > 0:
        middle = (low + high) // 2
        open_yet = low < high
        start = tl.load(starts + middle, mask=open_yet & wanted, other=0)
        low = tl.where(open_yet & (start <= key), middle + 1, low)
        high = tl.where(open_yet & (start > key), middle, high)
        span = span // 2
    before = tl.load(starts + low - 1, mask=(low > 0) & wanted, other=-TILE)
    return wanted & (key < before + TILE)


@triton.jit
def _add_forced(
    key, wanted, columns, starts, number, end_of_tile, list_ptr, filled, k_len,
    TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Append the wanted keys that neither a range nor a single column covers."""
    extra = wanted & (key < k_len)
    extra = extra & (_in_ranges(key, extra, starts, number, TILE) == 0)
    if COLUMNS:
        single = tl.load(columns + key, mask=extra & (key < end_of_tile), other=0)
        extra = extra & (single == 0)
    place = filled + tl.cumsum(extra.to(tl.int32), 0) - 1
    tl.store(list_ptr + place, key, mask=extra)
    return filled + tl.sum(extra.to(tl.int32), 0)


@triton.jit
def single_keys_kernel(
    columns_ptr, chosen_ptr, number_ptr, start_ptr, range_ptr, list_ptr, count_ptr,
    tiles, steps, most, room, extra, wide, q_len, k_len, rows,
    TILE: tl.constexpr, ROW: tl.constexpr, COLUMNS: tl.constexpr, SINK: tl.constexpr,
    DIAGONAL: tl.constexpr, LAST_ROW: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles, N)``: single columns outside of the ranges, then keys that are always kept.

    Lists of ``room`` keys, ``extra`` more in the tiles of the last row; ``wide`` in all. Counts
    ``[N, tiles, 2]`` of both kinds.
    """
    tile = tl.program_id(0)
    item = tl.program_id(1).to(tl.int64)
    out = item * tiles + tile
    starts = start_ptr + out * steps
    number = tl.load(range_ptr + out)
    end_of_tile = (tile + 1) * TILE + k_len - q_len
    row = tile // (ROW // TILE)
    behind = tl.maximum(tile - (rows - 1) * (ROW // TILE), 0)
    list_ptr += item * wide + tile.to(tl.int64) * room + behind * extra
    columns = columns_ptr + item * k_len
    filled = tl.full([], 0, tl.int32)
    if COLUMNS:
        chosen = tl.load(number_ptr + item)
        for first in range(0, chosen, CHUNK):
            # Chosen columns [CHUNK], of which those outside of the ranges are appended.
            index = first + tl.arange(0, CHUNK)
            key = tl.load(chosen_ptr + item * most + index, mask=index < chosen, other=0)
            single = (index < chosen) & (key < end_of_tile)
            single = single & (_in_ranges(key, single, starts, number, TILE) == 0)
            place = filled + tl.cumsum(single.to(tl.int32), 0) - 1
            tl.store(list_ptr + place, key, mask=single)
            filled += tl.sum(single.to(tl.int32), 0)
    tl.store(count_ptr + 2 * out, filled)
    alone = filled
    newest = (tl.minimum((row + 1) * ROW, q_len) - 1 + k_len - q_len) // ROW
    everything = row < 0
    if LAST_ROW:
        everything = row == rows - 1
    if everything:
        for first in range(0, (newest + 1) * ROW, CHUNK):
            key = first + tl.arange(0, CHUNK)
            filled = _add_forced(
                key, key < (newest + 1) * ROW, columns, starts, number, end_of_tile, list_ptr,
                filled, k_len, TILE, COLUMNS,
            )  # fmt: skip
    else:
        # Keys of one block, [ROW].
        key = tl.arange(0, ROW)
        if SINK:
            filled = _add_forced(
                key, key >= 0, columns, starts, number, end_of_tile, list_ptr, filled, k_len,
                TILE, COLUMNS,
            )  # fmt: skip
        if DIAGONAL:
            # The sink's block is not to be added twice.
            wanted = (key >= 0) & ((newest > 0) | (SINK == 0))
            filled = _add_forced(
                newest * ROW + key, wanted, columns, starts, number, end_of_tile, list_ptr, filled,
                k_len, TILE, COLUMNS,
            )  # fmt: skip
    tl.store(count_ptr + 2 * out + 1, filled - alone)


@dataclass(frozen=True)
class LineCover:
    """Keys that every query tile of some heads computes.

    Attributes:
        starts: int32 ``[N, tiles, steps]``, ascending first keys of ranges of 64.
        ranges: int32 ``[N, tiles]``, how many.
        singles: int32 ``[N, wide]``, single keys, tile after tile.
        counts: int32 ``[N, tiles, 2]``, chosen columns and keys of the keep policy, in this order.
        room: single keys a tile has place for.
        extra: single keys that the tiles of the last row have place for besides.
    """

    starts: Tensor
    ranges: Tensor
    singles: Tensor
    counts: Tensor
    room: int
    extra: int

    def pairs(self) -> Tensor:
        """Pairs computed: int64 ``[N]``. Ranges are whole, single keys come in groups of 64."""
        groups = (self.counts + TILE - 1) // TILE
        return (self.ranges.sum(1) + groups.sum((1, 2))) * TILE * TILE


def cover_lines(
    columns: Tensor, slashes: Tensor, most: int, q_len: int, k_len: int, keep: KeepPolicy
) -> LineCover:
    """Lists of what :func:`~method.ops.vertical_slash.torch.line_cover` covers, and a policy's keys.

    Args:
        columns: bool ``[N, Lk]``, chosen keys, contiguous.
        slashes: bool ``[N, Lk]``, chosen distances, contiguous.
        most: the largest number of chosen keys.
        q_len: query tokens.
        k_len: key tokens.
        keep: blocks that are always kept.
    """
    number, tiles = len(columns), tile_rows(q_len)
    steps = tile_rows(k_len) + 1
    new = columns.new_empty
    reach, chosen = new(number, k_len, dtype=torch.int32), new(number, most, dtype=torch.int32)
    found = new(number, dtype=torch.int32)
    flags = columns.view(torch.uint8)
    line_index_kernel[(number,)](
        flags, slashes.view(torch.uint8), reach, chosen, found, k_len, most, CHUNK=_CHUNK
    )
    starts = new(number, tiles, steps, dtype=torch.int32)
    ranges = new(number, tiles, dtype=torch.int32)
    walk_kernel[(triton.cdiv(tiles, LANES), number)](
        reach, starts, ranges, tiles, steps, q_len, k_len, TILE=TILE, LANES=LANES, num_warps=1
    )
    return _with_singles(starts, ranges, (flags, chosen, found), most, q_len, k_len, keep)


def cover_tiles(tiles: Tensor, q_len: int, k_len: int, keep: KeepPolicy) -> LineCover:
    """The same for aligned tiles: bool ``[N, query tiles, key tiles]``."""
    indices, counts = map_lists(tiles[None])
    nothing = (counts, counts, counts)
    return _with_singles(indices[0] * TILE, counts[0], nothing, 0, q_len, k_len, keep)


def _with_singles(
    starts: Tensor,
    ranges: Tensor,
    columns: tuple[Tensor, Tensor, Tensor],
    most: int,
    q_len: int,
    k_len: int,
    keep: KeepPolicy,
) -> LineCover:
    """Add single keys; ``columns`` are flags, keys and their number, not read if there are none."""
    number, tiles, steps = starts.shape
    room = most + (2 * BLOCK if keep.sink or keep.diagonal else 0)
    extra = k_len if keep.last_row else 0
    wide = tiles * room + BLOCK // TILE * extra
    singles = starts.new_empty(number, wide)
    counts = starts.new_empty(number, tiles, 2)
    single_keys_kernel[(tiles, number)](
        *columns, starts, ranges, singles, counts,
        tiles, steps, most, room, extra, wide, q_len, k_len, num_blocks(q_len),
        TILE=TILE, ROW=BLOCK, COLUMNS=most > 0, SINK=keep.sink, DIAGONAL=keep.diagonal,
        LAST_ROW=keep.last_row, CHUNK=_CHUNK,
    )  # fmt: skip
    return LineCover(starts, ranges, singles, counts, room, extra)
