"""FlexPrefill's query-aware heads: the attention map between mean vectors of blocks, and its best."""

from __future__ import annotations

import torch
from torch import Tensor

from method.blocks import BLOCK, causal_map
from method.ops.vertical_slash.torch import mean_tiles


def block_means(tensor: Tensor, flags: Tensor | None = None, *, triton: bool) -> Tensor:
    """Mean vector of every block of 128 tokens ``[B, H, blocks, D]``, for the heads of ``flags``."""
    if not triton:
        return mean_tiles(tensor, BLOCK)
    # Imported here so that the method can be used where Triton is not installed.
    from method.ops.pooled.triton import mean_tiles_triton

    return mean_tiles_triton(tensor, BLOCK, flags)


def pooled_weights(rows: Tensor, columns: Tensor, scale: float, q_len: int, k_len: int) -> Tensor:
    """Causal softmax of some heads' block means: ``[n, rows, columns]``.

    Args:
        rows: mean query of every query block, ``[n, rows, D]``.
        columns: mean key of every key block, ``[n, columns, D]``.
        scale: factor on the logits.
        q_len: query tokens.
        k_len: key tokens.
    """
    future = ~causal_map(q_len, k_len, rows.device)
    logits = (rows @ columns.transpose(-1, -2)) * scale
    return logits.masked_fill(future, -torch.inf).softmax(-1)


def pooled_map(
    rows: Tensor, columns: Tensor, scale: float, gamma: float, q_len: int, k_len: int
) -> Tensor:
    """Highest entries of the pooled attention maps of some heads: bool ``[n, rows, columns]``.

    The entries of all rows compete: they are kept in descending order while their sum is at most
    ``gamma`` times the number of rows, so a row of small entries may keep none. Arguments as for
    :func:`pooled_weights`.
    """
    weights = pooled_weights(rows, columns, scale, q_len, k_len)
    ranked, order = weights.flatten(1).sort(dim=-1, descending=True, stable=True)
    taken = ranked.double().cumsum(-1) <= gamma * rows.shape[1]
    chosen = torch.zeros_like(taken).scatter_(1, order, taken)
    return chosen.view(weights.shape) & causal_map(q_len, k_len, rows.device)


def pooled_map_triton(
    rows: Tensor,
    columns: Tensor,
    flags: Tensor,
    scale: float,
    gamma: float,
    q_len: int,
    k_len: int,
) -> Tensor:
    """The same choice for the flagged ones of all heads, by Triton and without sorting.

    Args:
        rows: fp32 ``[B, Hq, rows, D]``, read for flagged heads only.
        columns: fp32 ``[B, Hkv, columns, D]``.
        flags: bool ``[B, Hq]``.
        scale: factor on the logits.
        gamma: share of the map's total.
        q_len: query tokens.
        k_len: key tokens.

    Returns:
        bool ``[B, Hq, rows, columns]``, unspecified for other heads.
    """
    # Imported here so that the method can be used where Triton is not installed.
    from method.ops.pooled.triton import pooled_weights_triton
    from method.ops.top_p.prefix import find_prefix

    weights = pooled_weights_triton(rows, columns, flags, scale, q_len, k_len)
    lists, wanted = weights.flatten(0, 1).flatten(1), flags.flatten()
    limits = torch.full(wanted.shape, gamma * rows.shape[2], dtype=torch.float64, device=weights.device)
    return find_prefix(lists, limits, count=False, flags=wanted).keep().view(weights.shape)
