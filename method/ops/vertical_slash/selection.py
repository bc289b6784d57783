"""What the vertical-slash methods share: profiles, ranks, and lines turned into block lists."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, BlockMask, causal_map, num_blocks
from method.keep import KeepPolicy
from method.ops.checks import uses_triton
from method.ops.vertical_slash.profile import attention_profile


def profile(
    query: Tensor, key: Tensor, *, scale: float, last: int, estimator: str
) -> tuple[Tensor, Tensor]:
    """Attention of the last queries by key and by distance, from the estimator that is named.

    See :func:`method.ops.vertical_slash.profile.attention_profile`.
    """
    if not uses_triton(estimator, query):
        return attention_profile(query, key, scale=scale, last=last)
    # Imported here, as below, so that the methods can be used where Triton is not installed.
    from method.ops.vertical_slash.profile_triton import attention_profile_triton

    return attention_profile_triton(query, key, scale=scale, last=last)


def tokens_within(profiles: Tensor, share: float, *, triton: bool) -> Tensor:
    """How many of the highest entries hold at most ``share``: int64 ``[...]``.

    Args:
        profiles: non-negative ``[..., n]``. Running totals are fp64.
        share: the total that the counted entries may reach.
        triton: count without sorting; fp32 only.
    """
    if not triton:
        ranked = profiles.double().sort(dim=-1, descending=True).values
        return (ranked.cumsum(-1) <= share).sum(-1)
    from method.ops.top_p.prefix import find_prefix

    flat = profiles.flatten(0, -2)
    limit = torch.full((len(flat),), share, dtype=torch.float64, device=flat.device)
    return find_prefix(flat, limit, count=False).counts().view(profiles.shape[:-1])


def take_highest(scores: Tensor, counts: Tensor, *, triton: bool = False) -> Tensor:
    """The ``counts`` highest entries of every list: bool, the shape of ``scores``.

    Args:
        scores: non-negative ``[..., n]``; equal scores go to the earlier entry.
        counts: whole numbers that broadcast to ``[...]``; beyond ``n`` means all.
        triton: choose without sorting, which pays for long lists; fp32 only.
    """
    if triton:
        from method.ops.top_p.prefix import find_prefix

        limits = counts.double().expand(scores.shape[:-1]).reshape(-1)
        return find_prefix(scores.flatten(0, -2), limits, count=True).keep().view(scores.shape)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = torch.arange(scores.shape[-1], device=scores.device) < counts[..., None]
    chosen = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return chosen.scatter_(-1, order, ranked.expand(scores.shape))


@lru_cache(maxsize=512)
def device_numbers(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as fp64 on the device, kept for the next call: copying them waits for the device."""
    return torch.tensor(numbers, dtype=torch.float64, device=device)


def line_map(columns: Tensor, diagonals: Tensor, newest: Tensor, q_len: int, k_len: int) -> Tensor:
    """Blocks on any chosen vertical or slash line.

    Args:
        columns: bool ``[B, Hq, columns]``, chosen key blocks.
        diagonals: bool ``[B, Hq, n]``, chosen block diagonals; ``d`` runs through key block
            ``newest - d`` of every row.
        newest: int64 ``[rows]``, the key block of diagonal 0.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        bool ``[B, Hq, rows, columns]``, nothing above the causal diagonal.
    """
    causal = causal_map(q_len, k_len, columns.device)
    distance = newest[:, None] - torch.arange(causal.shape[1], device=columns.device)
    inside = (distance >= 0) & (distance < diagonals.shape[-1])
    on_slash = diagonals[..., distance.clamp(0, diagonals.shape[-1] - 1)] & inside
    return (columns[..., None, :] | on_slash) & causal


def line_mask(
    columns: Tensor,
    diagonals: Tensor,
    newest: Tensor,
    q_len: int,
    k_len: int,
    keep: KeepPolicy,
    *,
    others: Tensor | None = None,
    flags: Tensor | None = None,
    triton: bool,
) -> BlockMask:
    """The mask of the lines and of the keep policy.

    Args:
        columns: as for :func:`line_map`, like the next four.
        diagonals: chosen block diagonals.
        newest: the key block of diagonal 0.
        q_len: query tokens.
        k_len: key tokens.
        keep: blocks that are always kept.
        others: bool ``[B, Hq, rows, columns]``, further blocks of some heads.
        flags: bool ``[B, Hq]``, the heads for which ``others`` counts and holds anything.
        triton: write the lists at once, never the map.
    """
    if not triton:
        chosen = line_map(columns, diagonals, newest, q_len, k_len)
        if others is not None and flags is not None:
            chosen |= others & flags[..., None, None] & causal_map(q_len, k_len, chosen.device)
        return BlockMask.from_map(chosen | keep.forced(q_len, k_len, chosen.device), q_len, k_len)
    from method.ops.vertical_slash.lists import line_lists

    lists = line_lists(columns, diagonals, newest, q_len, k_len, keep, others=others, flags=flags)
    return BlockMask(*lists, q_len, k_len)


def project_lines(
    columns: Tensor, slashes: Tensor, q_len: int, k_len: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Block lines that any chosen key or distance touches, as :func:`line_map` wants them.

    Args:
        columns: bool ``[B, heads, Lk]``, chosen keys.
        slashes: bool ``[B, heads, Lk]``, chosen distances.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        Block columns, block diagonals, and the key block of diagonal 0 in every row.
    """
    shift = k_len - q_len
    base = (shift + BLOCK - 1) // BLOCK
    newest = torch.arange(num_blocks(q_len), device=columns.device) + base
    # A row whose queries start `lead` tokens before a block edge meets distance o in the blocks of
    # its two ends: those that hold o + lead, rounded down and up to whole blocks.
    lead = base * BLOCK - shift
    near, far = (any_of_blocks(slashes, lead + late) for late in (0, BLOCK - 1))
    near = F.pad(near, (0, far.shape[-1] - near.shape[-1]))
    return any_of_blocks(columns, 0), near | far, newest


def any_of_blocks(flags: Tensor, lead: int) -> Tensor:
    """Whether any flag is set in each block of 128, after ``lead`` unset ones."""
    size = lead + flags.shape[-1]
    return F.pad(flags, (lead, -size % BLOCK)).unflatten(-1, (-1, BLOCK)).any(-1)
