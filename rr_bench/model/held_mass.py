"""How much of the true attention selected blocks hold, of many methods on the same dense inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from method.attention import SparsePrefill
from method.base import Method
from method.blocks import BLOCK, BlockMask
from method.density import density_by_head
from method.ops.antidiagonal.torch import by_block, stride_logits
from rr_bench.model.dense_observer import Tap


@dataclass(frozen=True)
class MassTap(Tap):
    """Dense attention that lets methods select on the way and measures what their blocks hold.

    Each method sees the queries and keys of a dense prefill, so none suffers from what another layer
    lost, and all are measured on the same ones.

    Attributes:
        prefills: the methods by name, with the blocks that each must keep.
        found: by layer, fp32 ``[7, methods, Hq]`` for every prompt: density, then :func:`held_mass`.
        failed: why a method has no numbers; it is not asked again.
    """

    prefills: Mapping[str, SparsePrefill] = field(default_factory=dict)
    found: dict[int, list[Tensor]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    def note(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int) -> None:
        """Measure all methods in one layer."""
        batch, heads, q_len, _ = query.shape
        nothing = query.new_zeros(batch, heads, -(-q_len // BLOCK), -(-key.shape[2] // BLOCK))
        kept, density = [], []
        for name, prefill in self.prefills.items():
            chosen = nothing.bool()
            if name not in self.failed:
                try:
                    chosen = _selected(prefill, query, key, value, scale, layer)
                except (ValueError, TypeError) as error:
                    self.failed[name] = error
            kept.append(chosen)
            density.append(_density(chosen, q_len, key.shape[2]))
        shares = held_mass(query, key, torch.stack(kept), scale=scale)
        row = torch.cat([torch.stack(density)[None], shares.flatten(0, 1)])
        self.found.setdefault(layer, []).append(row.cpu())


def _selected(
    prefill: SparsePrefill, query: Tensor, key: Tensor, value: Tensor, scale: float, layer: int
) -> Tensor:
    """A method's blocks: bool ``[B, Hq, rows, columns]``.

    Raises:
        ValueError: the method attends to something that is no set of blocks.
    """
    method, options = prefill.method, {"scale": scale, "layer": layer, "keep": prefill.keep}
    if type(method).attend is not Method.attend:
        own = method.attend(query, key, value, **options)  # type: ignore[arg-type]
        if own is not None:
            raise ValueError("attends by a kernel of its own, not in blocks: nothing to measure")
    return method.select(query, key, **options).to_map()  # type: ignore[arg-type]


def _density(chosen: Tensor, q_len: int, k_len: int) -> Tensor:
    """Kept share of the causal triangle by head, mean over the batch."""
    return density_by_head(BlockMask.from_map(chosen, q_len, k_len)).float().mean(0)


def held_mass(query: Tensor, key: Tensor, kept: Tensor, *, scale: float) -> Tensor:
    """Share of a query's attention that lies in kept blocks, beside what as many blocks could hold.

    Three selections are measured: ``kept`` itself, and two oracles that take in every query row as
    many blocks as ``kept`` has there: those of the largest summed mass, which no selection of that
    size exceeds, and those of the largest mass of any one query.

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        kept: bool ``[M, B, Hq, rows, columns]``, nothing above the diagonal: selections of M methods.
        scale: factor on the logits.

    Returns:
        fp32 ``[3, 2, M, Hq]``, mean over the batch: by selection, the mean over all queries, and the
        mean over query rows of the query that keeps least.
    """
    batch, heads, q_len, _ = query.shape
    rows = kept.shape[3]
    total = torch.zeros(2, 3, kept.shape[0], batch, heads, device=query.device)
    for first, last, logits in stride_logits(query, key, scale, 1, None):
        shares = by_block(logits.softmax(-1), BLOCK).sum(-1).unflatten(2, (-1, BLOCK)).float()
        chosen = kept[..., first:last, : shares.shape[-1]]
        counts = chosen.sum(-1, keepdim=True)
        oracles = (_ranks(shares.sum(3)) < counts, _ranks(shares.amax(3)) < counts)
        masks = torch.stack((chosen, *oracles)).float()  # [3, M, B, Hq, rows, columns]
        held = torch.einsum("bhrqc,smbhrc->smbhrq", shares, masks)
        real = torch.arange(first * BLOCK, last * BLOCK, device=query.device).view(-1, BLOCK) < q_len
        total[0] += (held * real).sum((-1, -2)) / q_len
        total[1] += held.masked_fill(~real, torch.inf).amin(-1).sum(-1) / rows
    return total.mean(3).clamp(max=1).transpose(0, 1)


def _ranks(worth: Tensor) -> Tensor:
    """Place of every entry among its row's, from the highest: 0, 1, ..."""
    return worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
