"""The block mask every method returns: which 128x128 blocks of attention are computed.

Query row ``r`` covers query tokens ``[r*128, (r+1)*128)``; key block ``c`` covers key tokens
``[c*128, (c+1)*128)``. When ``q_len < k_len`` (chunked prefill) the queries are the *last*
``q_len`` tokens: query token ``i`` sits at key position ``i + k_len - q_len`` (bottom-right
alignment).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as FlexBlockMask

BLOCK = 128


def num_blocks(tokens: int) -> int:
    """Blocks needed to cover ``tokens`` tokens; the last one may be ragged."""
    return -(-tokens // BLOCK)


def visible_blocks(q_len: int, k_len: int, device: torch.device | str = "cpu") -> Tensor:
    """Key blocks each query row may see: int64 ``[ceil(q_len/128)]``.

    Row ``r`` sees every block up to the one that holds the key position of its last real query.
    """
    check_lengths(q_len, k_len)
    rows = torch.arange(num_blocks(q_len), device=device)
    last_query = torch.clamp((rows + 1) * BLOCK, max=q_len) - 1
    return (last_query + (k_len - q_len)) // BLOCK + 1


def causal_map(q_len: int, k_len: int, device: torch.device | str = "cpu") -> Tensor:
    """Blocks that hold at least one visible (query, key) pair: bool ``[rows, columns]``."""
    columns = torch.arange(num_blocks(k_len), device=device)
    return columns[None, :] < visible_blocks(q_len, k_len, device)[:, None]


def check_lengths(q_len: int, k_len: int) -> None:
    """Raise ``ValueError`` unless ``1 <= q_len <= k_len``."""
    if not 1 <= q_len <= k_len:
        raise ValueError(
            f"q_len={q_len} and k_len={k_len}: causal prefill needs 1 <= q_len <= k_len "
            "(the queries are the last q_len of the k_len tokens)"
        )


@dataclass(frozen=True)
class BlockMask:
    """Key blocks to compute for every (batch, query head, query row), as ascending lists.

    Attributes:
        indices: int32 ``[B, Hq, rows, width]``; the first ``counts`` entries of each list are
            strictly ascending key blocks, the rest is unspecified padding. ``width`` is at least
            the largest count.
        counts: int32 ``[B, Hq, rows]``.
        q_len: query tokens.
        k_len: key tokens, at least ``q_len``.
        density: what :func:`method.density.density_by_head` says of it, where the kernel that made the
            lists has counted it as well.
    """

    indices: Tensor
    counts: Tensor
    q_len: int
    k_len: int
    density: Tensor | None = None

    def __post_init__(self) -> None:
        check_lengths(self.q_len, self.k_len)
        if self.indices.dtype != torch.int32 or self.counts.dtype != torch.int32:
            raise TypeError("BlockMask needs int32 indices and counts")
        if self.indices.dim() != 4 or self.indices.shape[:3] != self.counts.shape:
            raise ValueError(
                f"BlockMask indices {tuple(self.indices.shape)} and counts "
                f"{tuple(self.counts.shape)} do not fit [B, Hq, rows, width] and [B, Hq, rows]"
            )
        if self.counts.shape[2] != num_blocks(self.q_len):
            raise ValueError(
                f"BlockMask has {self.counts.shape[2]} rows, q_len={self.q_len} needs "
                f"{num_blocks(self.q_len)}"
            )

    @property
    def rows(self) -> int:
        """Query rows, ``ceil(q_len / 128)``."""
        return self.counts.shape[2]

    @property
    def columns(self) -> int:
        """Key blocks, ``ceil(k_len / 128)``."""
        return num_blocks(self.k_len)

    @classmethod
    def from_map(cls, keep: Tensor, q_len: int, k_len: int) -> BlockMask:
        """Build the lists from a boolean map ``[B, Hq, rows, columns]``."""
        if keep.dtype != torch.bool or keep.dim() != 4:
            raise TypeError("from_map needs a bool map of shape [B, Hq, rows, columns]")
        if keep.shape[3] != num_blocks(k_len):
            raise ValueError(
                f"map has {keep.shape[3]} columns, k_len={k_len} needs {num_blocks(k_len)}"
            )
        if keep.is_cuda:
            # Imported here so that masks can be used where Triton is not installed.
            from method.ops.lists import map_lists

            return cls(*map_lists(keep), q_len, k_len)
        indices = torch.argsort(~keep, dim=-1, stable=True).to(torch.int32)
        return cls(indices, keep.sum(-1, dtype=torch.int32), q_len, k_len)

    @classmethod
    def causal(
        cls, batch: int, heads: int, q_len: int, k_len: int, device: torch.device | str = "cpu"
    ) -> BlockMask:
        """The full causal mask: what dense attention computes. Lists are shared views."""
        counts = visible_blocks(q_len, k_len, device).to(torch.int32)
        indices = torch.arange(num_blocks(k_len), device=device, dtype=torch.int32)
        rows = counts.shape[0]
        return cls(
            indices.expand(batch, heads, rows, -1), counts.expand(batch, heads, -1), q_len, k_len
        )

    def to_map(self) -> Tensor:
        """The boolean map ``[B, Hq, rows, columns]``: the inverse of :meth:`from_map`."""
        width = self.indices.shape[-1]
        live = torch.arange(width, device=self.indices.device) < self.counts[..., None]
        keep = torch.zeros(*self.counts.shape, self.columns + 1, dtype=torch.bool, device=live.device)
        # Padding entries are sent to a spare column, which is dropped.
        keep.scatter_(-1, torch.where(live, self.indices, self.columns).long(), True)
        return keep[..., : self.columns]

    def to_flex(self) -> FlexBlockMask:
        """The same mask for ``flex_attention``; interior blocks are marked full.

        ``mask_mod`` holds the block test as well as token causality, because eager
        ``flex_attention`` reads only ``mask_mod`` and ignores the lists.
        """
        keep, offset = self.to_map(), self.k_len - self.q_len
        rows = torch.arange(self.rows, device=keep.device)[:, None]
        ends = (torch.arange(self.columns, device=keep.device)[None, :] + 1) * BLOCK
        interior = (ends - 1 <= rows * BLOCK + offset) & (ends <= self.k_len)
        partial = BlockMask.from_map(keep & ~interior, self.q_len, self.k_len)
        full = BlockMask.from_map(keep & interior, self.q_len, self.k_len)

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return keep[b, h, q // BLOCK, k // BLOCK] & (k <= q + offset)

        return FlexBlockMask.from_kv_blocks(
            partial.counts,
            partial.indices,
            full.counts,
            full.indices,
            BLOCK_SIZE=BLOCK,
            mask_mod=mask_mod,
            seq_lengths=(self.q_len, self.k_len),
        )
