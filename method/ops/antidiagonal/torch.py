"""XAttention's estimate of block importance, in readable PyTorch (the Triton kernel's twin).

Attention is cut into cells of ``S`` x ``S`` tokens, and each cell is judged by its antidiagonal:
query ``S-1-s`` of a stride meets key ``s`` of another, so that every token takes part once. See
XAttention (arXiv 2503.16428), algorithm 1. With ``S = 1`` a cell is one pair of tokens, and the
estimate becomes the exact attention mass of every block: what the oracles select by.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_qk

REDUCTIONS = ("sum", "max")
ALMOST_BEST = 1 - 1e-3
"""Offer from which a block counts as a stride's best."""

_CHUNK_LOGITS = 1 << 22


def stride_lag(q_len: int, k_len: int, stride: int) -> int:
    """Query stride ``i`` sees the key strides up to ``i`` plus this.

    Query strides are counted from the first query: ``i`` holds queries ``i * S`` onwards, and sees
    key strides up to the one of its last query, inclusive.
    """
    return (k_len - q_len + stride - 1) // stride


def antidiagonal_scores(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    reduction: str = "sum",
    chunk_rows: int | None = None,
) -> Tensor:
    """Estimated attention mass of every (query row, key block).

    Every query stride gets a causal softmax over the key strides (inclusive: the newest cell holds
    a few future pairs, which matters to the selection only). Its probabilities are added up by
    key block, and the strides of a query row are reduced to one score.

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        scale: factor on the logits, which are divided by ``S`` as well.
        stride: ``S``, a power of two that divides 128.
        reduction: "sum" (a full row sums to 128 / S) or "max" over the strides of a query row.
        chunk_rows: query rows per step, to bound memory; by default about 4 million logits at a
            time. Has no influence on the result beyond rounding.

    Returns:
        ``[B, Hq, rows, columns]``, fp32 (fp64 for fp64 inputs), 0 above the diagonal. Query
        strides past the end contribute nothing; tokens missing from a stride count as zeros.

    Raises:
        ValueError: shapes or lengths do not fit, or ``reduction`` is unknown.
        TypeError: dtypes differ.
    """
    check_qk(query, key)
    check_reduction(reduction)
    per = BLOCK // stride
    scores = _empty_scores(query, key)
    for first, last, logits in stride_logits(query, key, scale, stride, chunk_rows):
        mass = by_block(logits.softmax(-1), per).sum(-1).unflatten(2, (-1, per))
        part = mass.sum(3) if reduction == "sum" else mass.amax(3)
        scores[:, :, first:last, : part.shape[-1]] = part
    return scores


def antidiagonal_peaks(
    query: Tensor, key: Tensor, *, scale: float, stride: int, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """What each key block offers every query stride at best, and where a stride has its best.

    A block's offer to a stride is the exponential of its largest cell, relative to the stride's
    largest; no softmax is taken. CoSA (arXiv 2607.25291), stage 1.

    Args:
        query: as for :func:`antidiagonal_scores`.
        key: likewise.
        scale: likewise.
        stride: likewise.
        chunk_rows: likewise.

    Returns:
        Offers summed over the strides of a query row, ``[B, Hq, rows, columns]``, fp32 (fp64), and
        whether a stride has its largest cell there (within 0.1 %), bool of that shape.

    Raises:
        ValueError: shapes or lengths do not fit.
        TypeError: dtypes differ.
    """
    check_qk(query, key)
    per = BLOCK // stride
    mass = _empty_scores(query, key)
    best = torch.zeros_like(mass, dtype=torch.bool)
    for first, last, logits in stride_logits(query, key, scale, stride, chunk_rows):
        offers = (logits - logits.amax(-1, keepdim=True)).exp()
        offers = by_block(offers, per).amax(-1).unflatten(2, (-1, per))
        width = offers.shape[-1]
        mass[:, :, first:last, :width] = offers.sum(3)
        best[:, :, first:last, :width] = (offers >= ALMOST_BEST).any(3)
    return mass, best


def stride_logits(
    query: Tensor, key: Tensor, scale: float, stride: int, chunk_rows: int | None
) -> Iterator[tuple[int, int, Tensor]]:
    """Cells' logits for some query rows at a time: first row, end row, and the logits.

    They are ``[B, Hq, query strides, key strides]``, ``-inf`` in the future, and end with the last
    key stride that the rows see.
    """
    batch, heads, q_len, _ = query.shape
    per, lag = BLOCK // stride, stride_lag(q_len, key.shape[2], stride)
    keys = _cells(key, stride, flip=False)
    rows, reach = num_blocks(q_len), keys.shape[2]
    step = chunk_rows or max(1, _CHUNK_LOGITS // (batch * heads * per * reach))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        cells = _cells(query[:, :, first * BLOCK : last * BLOCK], stride, flip=True)
        newest = torch.arange(first * per, first * per + cells.shape[2], device=query.device) + lag
        seen = min(first * per + cells.shape[2] + lag, reach)
        yield first, last, _logits(cells, keys[:, :, :seen], newest, scale / stride)


def by_block(cells: Tensor, per: int) -> Tensor:
    """Cells ``[B, Hq, query strides, key strides]`` with the key strides by block; zeros fill up."""
    padding = (0, -cells.shape[3] % per, 0, -cells.shape[2] % per)
    return F.pad(cells, padding).unflatten(3, (-1, per))


def _empty_scores(query: Tensor, key: Tensor) -> Tensor:
    work = torch.promote_types(query.dtype, torch.float32)
    shape = (*query.shape[:2], num_blocks(query.shape[2]), num_blocks(key.shape[2]))
    return query.new_zeros(shape, dtype=work)


def check_reduction(reduction: str) -> None:
    """Raise ``ValueError`` unless ``reduction`` is known."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}")


def _cells(tensor: Tensor, stride: int, *, flip: bool) -> Tensor:
    """Tokens of each stride side by side, in reverse if ``flip``: ``[B, H, ceil(L / S), S * D]``."""
    work = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    padded = F.pad(tensor.to(work), (0, 0, 0, -tensor.shape[2] % stride)).unflatten(2, (-1, stride))
    return (padded.flip(3) if flip else padded).flatten(3)


def _logits(cells: Tensor, keys: Tensor, newest: Tensor, factor: float) -> Tensor:
    """``[B, Hq, query strides, key strides]``; ``newest`` is the last that each may see."""
    batch, heads, count, width = cells.shape
    grouped = cells.reshape(batch, keys.shape[1], -1, width)
    logits = ((grouped @ keys.transpose(-1, -2)) * factor).view(batch, heads, count, -1)
    future = torch.arange(keys.shape[2], device=keys.device) > newest[:, None]
    return logits.masked_fill_(future, -torch.inf)
