"""Top-τ selection: the key blocks that hold a share τ of a query row's estimated mass.

Two published rules. At equal scores, τ and always-kept blocks, :func:`top_p` keeps a superset of
:func:`legacy`, which lets the always-kept blocks pay in first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BlockMask, causal_map
from method.keep import KeepPolicy

SELECTORS = ("legacy", "top_p")
_CHUNK_SCORES = 1 << 24


def legacy(scores: Tensor, kept: Tensor, visible: Tensor, tau: float | Tensor) -> Tensor:
    """RRAttention's first selector: always-kept blocks first, then by descending score.

    The mass of the ``kept`` blocks counts before any other block. A further block is kept while
    the mass gathered before it is below ``tau`` times the row's sum.

    Args:
        scores: ``[..., rows, columns]``, non-negative; 0 above the diagonal.
        kept: bool ``[rows, columns]``, blocks that are kept and whose mass counts first (sink and
            diagonal in the paper).
        visible: bool ``[rows, columns]``, the causal map.
        tau: share of the mass, in (0, 1]; a number, or a tensor that broadcasts over the rows.

    Returns:
        bool ``[..., rows, columns]``, ``kept`` included. Equal scores go to the earlier block.
        Sums are taken in fp64. A row without mass keeps only the ``kept`` blocks.
    """
    mass = scores.double()
    need = tau * mass.sum(-1, keepdim=True)
    paid = mass.masked_fill(~kept, 0).sum(-1, keepdim=True)
    # Kept blocks are paid for already: at -1 they sort last and add nothing.
    rest = mass.masked_fill(kept | ~visible, -1)
    return (_prefix(rest, need - paid) & visible) | kept


def top_p(scores: Tensor, kept: Tensor, visible: Tensor, tau: float | Tensor) -> Tensor:
    """RRAttention's later selector: plain top-p over all blocks, ``kept`` blocks added after.

    A block is kept if the mass of all higher-scored blocks is below ``tau`` times the row's sum.
    Arguments and result as for :func:`legacy`.
    """
    mass = scores.double()
    need = tau * mass.sum(-1, keepdim=True)
    return (_prefix(mass.masked_fill(~visible, -1), need) & visible) | kept


def _prefix(mass: Tensor, need: Tensor) -> Tensor:
    """Entries whose higher-ranked entries add up to less than ``need``; negatives count as 0."""
    ranked, order = mass.sort(dim=-1, descending=True, stable=True)
    before = F.pad(ranked.clamp(min=0).cumsum(-1)[..., :-1], (1, 0))
    return torch.zeros_like(mass, dtype=torch.bool).scatter_(-1, order, before < need)


def select_blocks(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
) -> Tensor:
    """Turn block scores into a boolean map, heads a few at a time to bound memory.

    Args:
        scores: ``[B, Hq, rows, columns]``, non-negative; 0 above the diagonal.
        q_len: query tokens.
        k_len: key tokens, at least ``q_len``.
        tau: share of the mass in (0, 1]; from 1 on every visible block is kept. A sequence gives
            every query head its own.
        selector: "legacy" or "top_p".
        keep: blocks that are always kept. Sink and diagonal count as mass under "legacy"; the
            last row is added afterwards, as it is by the paper's code.

    Returns:
        bool ``[B, Hq, rows, columns]``, nothing above the diagonal.

    Raises:
        ValueError: unknown selector, ``tau`` not positive or not one per head, or scores of
            another length.
    """
    if selector not in SELECTORS:
        raise ValueError(f"selector={selector!r} is not one of {', '.join(SELECTORS)}")
    shares = [tau] if isinstance(tau, int | float) else list(tau)
    if len(shares) not in (1, scores.shape[1]) or not min(shares) > 0:
        raise ValueError(
            f"tau={tau}: the share of mass to keep must be in (0, 1], one number or one for each of "
            f"{scores.shape[1]} heads"
        )
    visible = causal_map(q_len, k_len, scores.device)
    if scores.shape[-2:] != visible.shape:
        raise ValueError(
            f"scores {tuple(scores.shape)} do not fit q_len={q_len}, k_len={k_len}: "
            f"{tuple(visible.shape)} rows and columns are needed"
        )
    if min(shares) >= 1:
        return visible.expand(scores.shape).clone()
    rule = legacy if selector == "legacy" else top_p
    columns = keep.columns(q_len, k_len, scores.device)
    chosen = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    flat, flat_chosen = scores.flatten(0, 1), chosen.view(-1, *visible.shape)
    share = torch.tensor(shares, dtype=torch.float64, device=scores.device)
    share = share.expand(scores.shape[:2]).reshape(-1, 1, 1)
    step = max(1, _CHUNK_SCORES // visible.numel())
    for first in range(0, flat.shape[0], step):
        part = slice(first, first + step)
        flat_chosen[part] = rule(flat[part], columns, visible, share[part])
    if max(shares) >= 1:
        flat_chosen |= visible & (share >= 1)
    return chosen | keep.forced(q_len, k_len, scores.device)


def select_mask(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
) -> BlockMask:
    """The block mask of :func:`select_blocks`, by the Triton twin for scores on a GPU.

    Arguments and errors as for :func:`select_blocks`; on a GPU the scores must be contiguous fp32.
    """
    if not scores.is_cuda:
        chosen = select_blocks(scores, q_len, k_len, tau=tau, selector=selector, keep=keep)
        return BlockMask.from_map(chosen, q_len, k_len)
    # Imported here so that selection works where Triton is not installed.
    from method.ops.top_p.triton import select_blocks_triton

    return select_blocks_triton(scores, q_len, k_len, tau=tau, selector=selector, keep=keep)
