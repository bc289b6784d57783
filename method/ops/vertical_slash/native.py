"""MInference at its own granularity: which keys every 64 queries compute, and attention over them."""

from __future__ import annotations

import torch
from torch import Tensor

from method.keep import KeepPolicy
from method.ops.vertical_slash import torch as native
from method.ops.vertical_slash.head_patterns import BLOCKS, LINES, PATTERNS, LayerHeads, head_index
from method.ops.vertical_slash.torch import tile_rows

_CHUNK_TOKENS = 1 << 26
_CHUNK_NUMBERS = 1 << 29


def attend_torch(
    query: Tensor, key: Tensor, value: Tensor, layer: LayerHeads, *, scale: float, keep: KeepPolicy
) -> tuple[Tensor, Tensor]:
    """Output and density of a layer, some heads at a time, in PyTorch.

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]``.
        value: ``[B, Hkv, Lk, D]``.
        layer: patterns of its heads.
        scale: factor on the logits.
        keep: blocks that are always kept.

    Returns:
        ``[B, Hq, Lq, D]`` in the query's dtype, and fp32 ``[B, Hq]``; see
        :meth:`method.base.Method.attend`.
    """
    batch, heads, q_len, _ = query.shape
    k_len = key.shape[2]
    forced = keep.forced(q_len, k_len, query.device)
    output = torch.empty_like(query)
    pairs = torch.empty(batch, heads, dtype=torch.int64, device=query.device)
    step = max(1, _CHUNK_TOKENS // (batch * tile_rows(q_len) * k_len))
    for kind in PATTERNS:
        everyone = layer.of(kind)
        for first in range(0, len(everyone), step):
            members = everyone[first : first + step]
            cover = native.force_blocks(*cover_of(query, key, scale, layer, members), forced)
            owners = [head // (heads // key.shape[1]) for head in members]
            part = native.covered_attention(
                query[:, members].flatten(0, 1),
                key[:, owners].flatten(0, 1),
                value[:, owners].flatten(0, 1),
                cover[0],
                scale=scale,
            )
            output[:, members] = part.unflatten(0, (batch, -1))
            pairs[:, members] = cover[1].view(batch, -1)
    return output, native.pair_density(pairs, q_len, k_len)


def cover_of(
    query: Tensor, key: Tensor, scale: float, layer: LayerHeads, members: list[int]
) -> tuple[Tensor, Tensor]:
    """Keys ``[B * members, query tiles, Lk]`` and pairs of heads that share one pattern."""
    q_len, k_len = query.shape[2], key.shape[2]
    if layer.plan[members[0]][0] == LINES:
        columns, slashes = layer.lines(query, key, scale, members)
        return native.line_cover(columns.flatten(0, 1), slashes.flatten(0, 1), q_len, k_len)
    return native.tile_cover(_tiles_of(query, key, layer, members), k_len)


def attend_triton(
    query: Tensor, key: Tensor, value: Tensor, layer: LayerHeads, *, scale: float, keep: KeepPolicy
) -> tuple[Tensor, Tensor]:
    """The same by Triton, for bf16, fp16 and fp32 with head size 64, 96 or 128.

    Works on as many heads at a time as fit into 2 GiB of lists (at least one).
    """
    # Imported here so that the method can be used where Triton is not installed.
    from method.ops.vertical_slash.cover import cover_lines, cover_tiles
    from method.ops.vertical_slash.triton import line_attention_triton

    batch, heads, q_len, _ = query.shape
    k_len, device = key.shape[2], query.device
    output = query.new_empty(batch, q_len, heads, query.shape[3]).transpose(1, 2)
    pairs = torch.empty(batch, heads, dtype=torch.int64, device=device)
    for kind in PATTERNS:
        everyone = layer.of(kind)
        most = max(layer.line_sizes(everyone, k_len)[0], default=0) if kind == LINES else 0
        numbers = batch * tile_rows(q_len) * (tile_rows(k_len) + most)
        step = max(1, _CHUNK_NUMBERS // numbers)
        for first in range(0, len(everyone), step):
            members = everyone[first : first + step]
            if kind == LINES:
                columns, slashes = layer.lines(query, key, scale, members)
                cover = cover_lines(
                    columns.flatten(0, 1), slashes.flatten(0, 1), most, q_len, k_len, keep
                )
            else:
                tiles = _tiles_of(query, key, layer, members)
                cover = cover_tiles(tiles, q_len, k_len, keep)
            index = head_index(members, device)
            line_attention_triton(query, key, value, output, index, cover, scale=scale)
            pairs.index_copy_(1, index, cover.pairs().view(batch, -1))
    return output, native.pair_density(pairs, q_len, k_len)


def _tiles_of(query: Tensor, key: Tensor, layer: LayerHeads, members: list[int]) -> Tensor:
    """Aligned 64x64 tiles of heads without lines: bool ``[B * members, query tiles, key tiles]``."""
    if layer.plan[members[0]][0] == BLOCKS:
        return layer.tiles(query, key, members).flatten(0, 1)
    sizes = layer.a_shapes(members, key.shape[2], query.device)
    tiles = native.tile_a_shape(query.shape[2], key.shape[2], *sizes, query.device)
    return tiles.repeat(query.shape[0], 1, 1)
