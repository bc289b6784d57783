"""Top-τ selection: the key blocks that hold a share τ of a query row's estimated mass.

Three rules. They differ in what the always-kept blocks pay towards the share, and by one block:
:func:`released` is what the public code of RRAttention and XAttention computes,
:func:`forced_first` what it describes, :func:`top_p` what RRAttention's later kernel computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BlockMask, causal_map, visible_blocks
from method.keep import KeepPolicy

SELECTORS = ("released", "forced_first", "top_p")
_CHUNK_SCORES = 1 << 24


def forced_first(scores: Tensor, kept: Tensor, visible: Tensor, tau: float | Tensor) -> Tensor:
    """Always-kept blocks pay first, then others by descending score.

    The mass of the ``kept`` blocks counts before any other block. A further block is kept while
    the mass gathered before it is below ``tau`` times the row's sum.

    Args:
        scores: ``[..., rows, columns]``, non-negative; 0 above the diagonal.
        kept: bool ``[rows, columns]``, blocks that are kept and whose mass counts first.
        visible: bool ``[rows, columns]``, the causal map.
        tau: share of the mass, in (0, 1]; a number, or a tensor that broadcasts over the rows.

    Returns:
        bool ``[..., rows, columns]``, ``kept`` included. Equal scores go to the earlier block.
        Sums are taken in fp64. A row without mass keeps only the ``kept`` blocks.
    """
    rest, need = _after(scores, kept, visible, tau)
    return (_prefix(rest, need) & visible) | kept


def released(
    scores: Tensor, kept: Tensor, diagonal: Tensor, visible: Tensor, tau: float | Tensor
) -> Tensor:
    """The rule that the released code of RRAttention and XAttention computes.

    Writing the diagonal into the map of always-kept blocks erases the sink there, so that only
    the diagonal pays first and the sink competes by its score. The list of running sums still
    begins with two free places, so that it lags by one block: a row gathers its share, then keeps
    the next block as well. The sink is kept in the end, as the index that every unused place of
    the list holds.

    Arguments and result as for :func:`forced_first`; of the ``kept`` blocks, only those in
    ``diagonal``, bool ``[rows, columns]``, count first.
    """
    rest, need = _after(scores, diagonal, visible, tau)
    has_mass = scores.double().sum(-1, keepdim=True) > 0
    return ((_prefix(rest, need, free=1) & has_mass) & visible) | kept


def top_p(scores: Tensor, kept: Tensor, visible: Tensor, tau: float | Tensor) -> Tensor:
    """Plain top-p over all blocks, ``kept`` blocks added after.

    A block is kept if the mass of all higher-scored blocks is below ``tau`` times the row's sum.
    At equal scores this is a superset of :func:`forced_first`. Arguments and result as there.
    """
    rest, need = _after(scores, torch.zeros_like(kept), visible, tau)
    return (_prefix(rest, need) & visible) | kept


def _after(
    scores: Tensor, paying: Tensor, visible: Tensor, tau: float | Tensor
) -> tuple[Tensor, Tensor]:
    """What is left to rank once ``paying`` blocks paid, fp64, and the mass still needed.

    Blocks that paid or are not visible are at -1: they sort last and add nothing.
    """
    mass = scores.double()
    need = tau * mass.sum(-1, keepdim=True) - mass.masked_fill(~paying, 0).sum(-1, keepdim=True)
    return mass.masked_fill(paying | ~visible, -1), need


def _prefix(mass: Tensor, need: Tensor, free: int = 0) -> Tensor:
    """Entries whose higher-ranked entries add up to less than ``need``; negatives count as 0.

    The ``free`` entries that follow these are taken as well.
    """
    ranked, order = mass.sort(dim=-1, descending=True, stable=True)
    before = F.pad(ranked.clamp(min=0).cumsum(-1)[..., :-1], (1, 0))
    taken = F.pad(before < need, (free, 0), value=True)[..., : mass.shape[-1]]
    return torch.zeros_like(mass, dtype=torch.bool).scatter_(-1, order, taken)


def select_blocks(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None = None,
) -> Tensor:
    """Turn block scores into a boolean map, heads a few at a time to bound memory.

    Args:
        scores: ``[B, Hq, rows, columns]``, non-negative; 0 above the diagonal.
        q_len: query tokens.
        k_len: key tokens, at least ``q_len``.
        tau: share of the mass in (0, 1]; from 1 on every visible block is kept. A sequence gives
            every query head its own.
        selector: one of :data:`SELECTORS`.
        keep: blocks that are always kept. The last row is added to what the selector chose, as it
            is by the paper's code.
        released_rows: under "released", rows whose diagonal is at this column or later follow
            "forced_first" (see :class:`method.xattention.XAttention`); None for no such row.

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
    rule = _rule(selector, q_len, k_len, keep, released_rows, visible)
    chosen = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    flat, flat_chosen = scores.flatten(0, 1), chosen.view(-1, *visible.shape)
    share = torch.tensor(shares, dtype=torch.float64, device=scores.device)
    share = share.expand(scores.shape[:2]).reshape(-1, 1, 1)
    step = max(1, _CHUNK_SCORES // visible.numel())
    for first in range(0, flat.shape[0], step):
        part = slice(first, first + step)
        flat_chosen[part] = rule(flat[part], share[part])
    if max(shares) >= 1:
        flat_chosen |= visible & (share >= 1)
    return chosen | keep.forced(q_len, k_len, scores.device)


def _rule(
    selector: str,
    q_len: int,
    k_len: int,
    keep: KeepPolicy,
    released_rows: int | None,
    visible: Tensor,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The selector as a function of scores ``[heads, rows, columns]`` and shares ``[heads, 1, 1]``."""
    kept = keep.columns(q_len, k_len, visible.device)
    if selector != "released":
        plain = forced_first if selector == "forced_first" else top_p
        return lambda scores, share: plain(scores, kept, visible, share)
    diagonal = replace(keep, sink=False).columns(q_len, k_len, visible.device)
    if released_rows is None:
        return lambda scores, share: released(scores, kept, diagonal, visible, share)
    first = (visible_blocks(q_len, k_len, visible.device) <= released_rows)[:, None]
    return lambda scores, share: torch.where(
        first,
        released(scores, kept, diagonal, visible, share),
        forced_first(scores, kept, visible, share),
    )


def select_mask(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None = None,
) -> BlockMask:
    """The block mask of :func:`select_blocks`, by the Triton twin for scores on a GPU.

    Arguments and errors as for :func:`select_blocks`; on a GPU the scores must be contiguous fp32.
    """
    options: dict[str, Any] = {
        "tau": tau, "selector": selector, "keep": keep, "released_rows": released_rows
    }  # fmt: skip
    if not scores.is_cuda:
        chosen = select_blocks(scores, q_len, k_len, **options)
        return BlockMask.from_map(chosen, q_len, k_len)
    # Imported here so that selection works where Triton is not installed.
    from method.ops.top_p.triton import select_blocks_triton

    return select_blocks_triton(scores, q_len, k_len, **options)
