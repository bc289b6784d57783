"""What the vertical-slash methods share: profiles, ranks, and lines turned into a block map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, causal_map, num_blocks
from method.kernels.profile import attention_profile

ESTIMATORS = ("auto", "torch", "triton")


def profile(
    query: Tensor, key: Tensor, *, scale: float, last: int, estimator: str
) -> tuple[Tensor, Tensor]:
    """Attention of the last queries by key and by distance, from the estimator that is named.

    "auto" is Triton on a GPU and PyTorch elsewhere. See
    :func:`method.kernels.profile.attention_profile`.
    """
    if estimator == "torch" or (estimator == "auto" and not query.is_cuda):
        return attention_profile(query, key, scale=scale, last=last)
    # Imported here so that the methods can be used where Triton is not installed.
    from method.kernels.profile_triton import attention_profile_triton

    return attention_profile_triton(query, key, scale=scale, last=last)


def take_highest(scores: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` highest entries of every list: bool, the shape of ``scores``.

    Args:
        scores: ``[..., n]``; equal scores go to the earlier entry.
        counts: whole numbers ``[...]``; beyond ``n`` means all.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ranked = torch.arange(scores.shape[-1], device=scores.device) < counts[..., None]
    return torch.zeros_like(ranked).scatter_(-1, order, ranked)


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


def take_sizes(scores: Tensor, sizes: list[int]) -> Tensor:
    """The highest entries of every head, as many as it may have: bool ``[B, heads, Lk]``."""
    order = scores.topk(max(sizes), dim=-1).indices
    ranks = torch.arange(order.shape[-1], device=order.device)
    live = ranks < torch.tensor(sizes, device=order.device)[:, None]
    spare = scores.shape[-1]
    chosen = torch.zeros(*scores.shape[:-1], spare + 1, dtype=torch.bool, device=order.device)
    return chosen.scatter_(-1, torch.where(live, order, spare), True)[..., :spare]


def project_lines(columns: Tensor, slashes: Tensor, q_len: int, k_len: int) -> Tensor:
    """Blocks that any chosen key or distance touches: bool ``[B, heads, rows, columns]``."""
    device, shift = columns.device, k_len - q_len
    blocks = F.pad(columns, (0, -k_len % BLOCK)).unflatten(-1, (-1, BLOCK)).any(-1)
    base = (shift + BLOCK - 1) // BLOCK
    newest = torch.arange(num_blocks(q_len), device=device) + base
    # A row that starts at block edge + shift meets distance o in the blocks of its two ends.
    start = shift - torch.arange(k_len, device=device)
    near, far = base - (start + BLOCK - 1) // BLOCK, base - start // BLOCK
    count = base - (shift - k_len + 1) // BLOCK + 1
    diagonals = torch.zeros(*slashes.shape[:-1], count, dtype=torch.uint8, device=device)
    for index in (near, far):
        diagonals.scatter_reduce_(-1, index.expand_as(slashes), slashes.to(torch.uint8), "amax")
    return line_map(blocks, diagonals.bool(), newest, q_len, k_len)
