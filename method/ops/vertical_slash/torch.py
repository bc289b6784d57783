"""MInference's own granularity, in PyTorch: single key columns and 64-row tiles at any key.

The vertical-slash kernel of MInference (arXiv 2407.02490) computes, for every 64 queries, key
ranges of 64 that start anywhere, and gathered single columns. Both depend on a walk over the
chosen distances that is reproduced here. Exact, but made to be right and not to be fast: every
pair is multiplied and most are masked. :mod:`method.ops.vertical_slash.cover` and
:mod:`method.ops.vertical_slash.triton` do the same on a GPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK
from method.density import causal_blocks

TILE = 64
_CHUNK_LOGITS = 1 << 24


def tile_rows(q_len: int) -> int:
    """Query tiles of 64, the last one ragged."""
    return -(-q_len // TILE)


def slash_starts(slashes: Tensor, q_len: int, k_len: int) -> Tensor:
    """First keys of the 64-wide ranges that the chosen distances need in every query tile.

    For a tile whose queries end before key position ``E``, a distance ``o`` below ``E`` asks for
    the 64 keys that end at ``E - o`` (at 64 if that is less). The ranges are walked upwards: one
    that ends at most 64 beyond the range at hand extends it by 64, whatever it needed; one that
    ends further on begins a new range; one that ends inside it is ignored.

    Args:
        slashes: bool ``[N, Lk]``, chosen distances from query back to key.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        int64 ``[N, query tiles, steps]``, ascending starts, then -1 where the walk is over.
    """
    device = slashes.device
    index = torch.arange(k_len, device=device)
    reachable = torch.where(slashes, index, -1).cummax(-1).values
    ends = (torch.arange(tile_rows(q_len), device=device) + 1) * TILE + k_len - q_len
    ends = ends.expand(slashes.shape[0], -1)
    at, starts = torch.zeros_like(ends), []
    for _ in range(-(-k_len // TILE) + 1):
        left = ends - at - 1
        distance = reachable.gather(1, left.clamp(0, k_len - 1)).masked_fill(left < 0, -1)
        end = (ends - distance).clamp(min=TILE)
        start = torch.where(end <= at + TILE, at, end - TILE)
        starts.append(start.masked_fill(distance < 0, -1))
        at = torch.where(distance < 0, at, start + TILE)
    return torch.stack(starts, -1)


def line_cover(columns: Tensor, slashes: Tensor, q_len: int, k_len: int) -> tuple[Tensor, Tensor]:
    """Keys that each query tile computes for chosen columns and distances, and what that costs.

    Args:
        columns: bool ``[N, Lk]``, chosen keys.
        slashes: bool ``[N, Lk]``, chosen distances, 0 among them.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        bool ``[N, query tiles, Lk]``, and the pairs computed, int64 ``[N]``: whole ranges, and
        columns outside of them in groups of 64.
    """
    starts = slash_starts(slashes, q_len, k_len)
    live = starts >= 0
    # +1 where a range begins, -1 behind its end; a range may end beyond the last key.
    edges = torch.zeros(*starts.shape[:2], k_len + 2 * TILE + 1, dtype=torch.int8, device=live.device)
    spare = k_len + 2 * TILE
    one = live.to(torch.int8)
    edges.scatter_add_(2, torch.where(live, starts.clamp(max=spare), spare), one)
    edges.scatter_add_(2, torch.where(live, (starts + TILE).clamp(max=spare), spare), -one)
    ranges = edges[..., :k_len].cumsum(-1, dtype=torch.int8) > 0
    ends = (torch.arange(starts.shape[1], device=live.device) + 1) * TILE + k_len - q_len
    before_end = torch.arange(k_len, device=live.device) < ends[:, None]
    single = columns[:, None, :] & ~ranges & before_end
    groups = (single.sum(-1) + TILE - 1) // TILE
    return ranges | single, (live.sum((1, 2)) + groups.sum(1)) * TILE * TILE


def tile_cover(tiles: Tensor, k_len: int) -> tuple[Tensor, Tensor]:
    """The same for aligned tiles: bool ``[N, query tiles, key tiles]`` to keys and pairs."""
    tokens = tiles.repeat_interleave(TILE, dim=-1)[..., :k_len]
    return tokens, tiles.sum((1, 2)) * TILE * TILE


def force_blocks(tokens: Tensor, pairs: Tensor, forced: Tensor) -> tuple[Tensor, Tensor]:
    """Add the blocks of a keep policy, bool ``[rows, columns]``, to a cover; pairs in 64s."""
    extra = forced.repeat_interleave(BLOCK // TILE, 0)[: tokens.shape[1]]
    extra = extra.repeat_interleave(BLOCK, 1)[:, : tokens.shape[2]] & ~tokens
    groups = (extra.sum(-1) + TILE - 1) // TILE
    return tokens | extra, pairs + groups.sum(1) * TILE * TILE


def covered_attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, *, scale: float
) -> Tensor:
    """Exact attention of some heads over the keys their tiles cover, token-causal.

    Args:
        query: ``[N, Lq, D]``.
        key: ``[N, Lk, D]``.
        value: ``[N, Lk, D]``.
        tokens: bool ``[N, query tiles, Lk]``.
        scale: factor on the logits.

    Returns:
        ``[N, Lq, D]`` in the query's dtype. A query that sees no key gets 0.
    """
    heads, q_len, _ = query.shape
    k_len, shift = key.shape[1], key.shape[1] - q_len
    work = torch.promote_types(query.dtype, torch.float32)
    keys, values = key.to(work).transpose(1, 2), value.to(work)
    output = torch.empty_like(query)
    step = max(1, _CHUNK_LOGITS // (heads * TILE * k_len))
    key_at = torch.arange(k_len, device=query.device)
    for first in range(0, tokens.shape[1], step):
        span = slice(first * TILE, min((first + step) * TILE, q_len))
        reach = span.stop + shift
        logits = (query[:, span].to(work) @ keys[..., :reach]) * scale
        seen = tokens[:, first : first + step, :reach].repeat_interleave(TILE, 1)
        seen = seen[:, : span.stop - span.start]
        query_at = torch.arange(span.start, span.stop, device=query.device) + shift
        seen = seen & (key_at[:reach] <= query_at[:, None])
        weights = logits.masked_fill_(~seen, -torch.inf).softmax(-1)
        weights = weights.masked_fill(~seen.any(-1, keepdim=True), 0)
        output[:, span] = (weights @ values[:, :reach]).to(query.dtype)
    return output


def pair_density(pairs: Tensor, q_len: int, k_len: int) -> Tensor:
    """Computed pairs over those of the causal 128-blocks, at most 1: fp32, the shape of ``pairs``.

    The same denominator as for block masks. Ranges may reach beyond the diagonal, so that a very
    short prompt could count a little more than dense attention.
    """
    return (pairs / float(causal_blocks(q_len, k_len) * BLOCK * BLOCK)).clamp(max=1).float()


def mean_tiles(tensor: Tensor, size: int = TILE) -> Tensor:
    """Mean vector of every ``size`` tokens: ``[B, H, ceil(L / size), D]``, fp32 or fp64."""
    work = torch.promote_types(tensor.dtype, torch.float32)
    length = tensor.shape[2]
    sums = F.pad(tensor, (0, 0, 0, -length % size)).unflatten(2, (-1, size)).sum(3, dtype=work)
    starts = torch.arange(sums.shape[2], device=tensor.device) * size
    return sums / (length - starts).clamp(max=size)[:, None]


def tile_causal(q_len: int, k_len: int, device: torch.device) -> Tensor:
    """Tiles that hold a visible pair: bool ``[query tiles, key tiles]``."""
    rows = torch.arange(tile_rows(q_len), device=device)
    newest = torch.clamp((rows + 1) * TILE, max=q_len) - 1 + k_len - q_len
    return torch.arange(tile_rows(k_len), device=device) * TILE <= newest[:, None]


def tile_a_shape(q_len: int, k_len: int, sink: Tensor, window: Tensor, device: torch.device) -> Tensor:
    """Tiles touched by A-shapes: bool ``[n, query tiles, key tiles]`` for sizes ``[n, 1, 1]``."""
    rows = torch.arange(tile_rows(q_len), device=device)[:, None]
    oldest = rows * TILE + k_len - q_len - window + 1
    starts = torch.arange(tile_rows(k_len), device=device) * TILE
    touched = (starts < sink) | (starts + TILE > oldest)
    return touched & tile_causal(q_len, k_len, device)
