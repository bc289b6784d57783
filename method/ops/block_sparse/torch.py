"""Block-sparse attention in PyTorch that skips unselected blocks: the CPU back end.

The selected key and value blocks of a query row are gathered and handed to
``scaled_dot_product_attention``: one call per (query row, head), or one per query row where every
head keeps the same leading blocks, as dense rows do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, BlockMask, num_blocks, visible_blocks
from method.ops.checks import check_attention, check_mask


def block_sparse_torch(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, *, scale: float
) -> Tensor:
    """Exact attention over the kept blocks; the others are neither read nor multiplied.

    Args:
        query: ``[B, Hq, Lq, D]``, any floating dtype, head size and strides.
        key: ``[B, Hkv, Lk, D]``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        mask: kept blocks for these lengths. Its lists are read on the host, so on a GPU this
            path waits for the device.
        scale: positive factor on the logits.

    Returns:
        ``[B, Hq, Lq, D]`` in the query's dtype (a transposed view of a contiguous
        ``[B, Lq, Hq, D]``). A query that sees no key gets 0.

    Raises:
        ValueError: shapes, lengths or devices do not fit, or a block lies above the diagonal.
        TypeError: dtypes differ.
    """
    check_attention(query, key, value, scale)
    check_mask(query, key, mask)
    batch, heads, q_len, dim = query.shape
    lists, tails = _HostLists(mask), _TokenMasks(mask, query.dtype, query.device)
    keys, values = _to_blocks(key), _to_blocks(value)
    output = query.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    for item in range(batch):
        for row in range(mask.rows):
            span = slice(row * BLOCK, min((row + 1) * BLOCK, q_len))
            for members, count, ends in lists.calls(item, row):
                target = output[item : item + 1, members, span]
                if count == 0:
                    target.zero_()
                    continue
                picked = None
                if members.stop - members.start == 1:
                    picked = mask.indices[item, members.start, row, :count]
                bias, blind = tails.of(row, ends, count, target.shape[2])
                part = F.scaled_dot_product_attention(
                    query[item : item + 1, members, span],
                    _pick(keys[item], members, heads, picked, count),
                    _pick(values[item], members, heads, picked, count),
                    attn_mask=bias,
                    scale=scale,
                    enable_gqa=picked is None,
                )
                target.copy_(part if blind is None else part.masked_fill(blind, 0))
    return output


def _to_blocks(tensor: Tensor) -> Tensor:
    """``[B, Hkv, L, D]`` as zero-padded ``[B, Hkv, blocks, 128 * D]``; a view where it can be."""
    batch, heads, length, dim = tensor.shape
    blocks = num_blocks(length)
    padded = F.pad(tensor, (0, 0, 0, blocks * BLOCK - length)) if length % BLOCK else tensor
    return padded.contiguous().view(batch, heads, blocks, BLOCK * dim)


def _pick(blocks: Tensor, members: slice, heads: int, picked: Tensor | None, count: int) -> Tensor:
    """Tokens ``[1, 1 or Hkv, count * 128, D]`` for one call.

    ``blocks`` is ``[Hkv, blocks, 128 * D]``. Without ``picked`` the call serves all heads, from
    their common leading blocks, and nothing is copied.
    """
    dim = blocks.shape[-1] // BLOCK
    if picked is None:
        return blocks[None, :, :count].unflatten(-1, (BLOCK, dim)).flatten(2, 3)
    owner = members.start // (heads // blocks.shape[0])
    return blocks[owner].index_select(0, picked).view(1, 1, count * BLOCK, dim)


class _HostLists:
    """What the host needs of a mask: list lengths and the last two entries of every list."""

    def __init__(self, mask: BlockMask) -> None:
        last, second = self._entry(mask, 1), self._entry(mask, 2)
        visible = visible_blocks(mask.q_len, mask.k_len, last.device)
        if bool(((mask.counts > 0) & (last >= visible)).any()):
            raise ValueError("block mask keeps a key block above the causal diagonal")
        self._ends = torch.stack([mask.counts, second, last], dim=-1).tolist()

    @staticmethod
    def _entry(mask: BlockMask, from_end: int) -> Tensor:
        at = (mask.counts[..., None].long() - from_end).clamp(min=0)
        return mask.indices.gather(-1, at)[..., 0]

    def calls(self, item: int, row: int) -> Iterator[tuple[slice, int, list[int]]]:
        """Heads, list length and last entries (two at most) of each attention call of a row."""
        per_head = [head[row] for head in self._ends[item]]
        count, *ends = per_head[0]
        if len(per_head) > 1 and count == ends[1] + 1 and all(head == per_head[0] for head in per_head):
            yield slice(0, len(per_head)), count, ends[-count:]
            return
        for index, (length, *last) in enumerate(per_head):
            yield slice(index, index + 1), length, last[-length:] if length else []


class _TokenMasks:
    """Additive token masks for the diagonal blocks, cut from one wide mask per pattern.

    Only the last two blocks of a list can hold future keys. Where they lie relative to their
    query row does not depend on the row, so at most three wide masks serve a whole call.
    """

    def __init__(self, mask: BlockMask, dtype: torch.dtype, device: torch.device) -> None:
        self._shift = mask.k_len - mask.q_len
        self._width = mask.columns * BLOCK
        self._dtype, self._device = dtype, device
        self._wide: dict[tuple[int, ...], Tensor] = {}

    def of(
        self, row: int, ends: list[int], count: int, queries: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """The mask of one call, and which of its queries see nothing at all.

        Returns:
            ``[queries, count * 128]`` in the query's dtype and bool ``[queries, 1]``; None where
            every key is visible to every query, and where every query sees a key.
        """
        interior = (row * BLOCK + self._shift + 1) // BLOCK
        tail = tuple(block - row for block in ends if block >= interior)
        if not tail:
            return None, None
        if tail not in self._wide:
            self._wide[tail] = self._build(tail)
        bias = self._wide[tail][:queries, self._width - count * BLOCK :]
        return bias, bias.isneginf().all(-1, keepdim=True) if count == len(tail) else None

    def _build(self, tail: tuple[int, ...]) -> Tensor:
        query = torch.arange(BLOCK, device=self._device)[:, None] + self._shift
        starts = torch.tensor(tail, device=self._device) * BLOCK
        key = (starts[:, None] + torch.arange(BLOCK, device=self._device)).flatten()
        wide = torch.zeros(BLOCK, self._width, dtype=self._dtype, device=self._device)
        wide[:, self._width - key.numel() :].masked_fill_(key > query, -torch.inf)
        return wide
