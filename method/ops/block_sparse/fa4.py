"""FlashAttention-4's block-sparse kernel on this project's lists: another implementation of the same.

FlashAttention-4 (wheel ``flash-attn-4``, in the CUTLASS DSL) takes two lists a row: blocks that a mask
function looks at token by token, and blocks that are computed whole. Rows of 128 queries fit its tile
on capability 9.0 only; on 10.0 a tile holds 256.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from method.blocks import BLOCK, BlockMask, visible_blocks
from method.ops.checks import check_attention, check_mask
from method.ops.triton_support import HEAD_DIMS, aligned, capability

DTYPES = (torch.bfloat16, torch.float16)


class MissingFA4(ValueError):
    """FlashAttention-4 is not installed, or something that it needs is not."""


def split_lists(mask: BlockMask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lists of the blocks that the diagonal crosses, and of those before it.

    Returns:
        int32 counts ``[B, Hq, rows]`` and lists ``[B, Hq, rows, 1 or 2]`` of the crossed blocks, of
        which a row of 128 queries has two at most; then the same of the blocks that every query of
        the row sees whole: their lists are the mask's own. What lies above the diagonal is in neither.
    """
    shift, device = mask.k_len - mask.q_len, mask.indices.device
    # Blocks before `border` end at or before the row's first query, those from `end` on see none.
    border = ((torch.arange(mask.rows, device=device) * BLOCK + shift + 1) // BLOCK)[:, None]
    end = visible_blocks(mask.q_len, mask.k_len, device)[:, None]
    width = mask.indices.shape[-1]
    live = torch.arange(width, device=device) < mask.counts[..., None]
    whole = (live & (mask.indices < border)).sum(-1, dtype=torch.int32)
    seen = (live & (mask.indices < end)).sum(-1, dtype=torch.int32)
    # Lists ascend, so the crossed blocks follow the whole ones.
    at = whole[..., None] + torch.arange(min(2, width), device=device)
    crossed = mask.indices.gather(-1, at.clamp(max=width - 1).long())
    return seen - whole, crossed, whole, mask.indices.contiguous()


@cache
def package() -> tuple[Callable[..., Any], Any, Callable[..., Any]]:
    """``flash_attn_func``, the tuple of its block lists, and token causality as its mask function.

    Raises:
        MissingFA4: the package cannot be imported; the message says what is missing.
    """
    try:
        cute = import_module("cutlass.cute")
        lists = import_module("flash_attn.cute.block_sparsity").BlockSparseTensorsTorch
        run = import_module("flash_attn.cute.interface").flash_attn_func
    except (ImportError, OSError) as error:
        raise MissingFA4(
            f"backend=fa4 needs FlashAttention-4 ({error}): pip install 'rr-bench[fa4]', or take "
            "another backend"
        ) from error

    # The compiler reads the source of this function, and calls it with vectors of positions.
    @cute.jit
    def causal(batch, head, query_at, key_at, lengths, more):  # type: ignore[no-untyped-def]
        return key_at <= query_at + (lengths.seqlen_k - lengths.seqlen_q)

    return run, lists, causal


def check_fa4(query: Tensor) -> None:
    """Check that FlashAttention-4 can run on queries ``[B, Hq, Lq, D]`` in rows of 128.

    Raises:
        ValueError: the device or the head size does not fit.
        TypeError: the dtype is not supported.
        MissingFA4: the package cannot be imported.
    """
    if capability(query.device) != 90:
        raise ValueError(
            f"backend=fa4 needs a GPU of compute capability 9.0, the query is on {query.device}: on "
            "newer ones FlashAttention-4's rows hold 256 queries, and blocks here 128; use backend=auto"
        )
    if query.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"backend=fa4: head size {query.shape[-1]} is none of {HEAD_DIMS}")
    if query.dtype not in DTYPES:
        raise TypeError(f"backend=fa4: {query.dtype} is not supported (bfloat16, float16)")
    package()


class ListsFA4:
    """FlashAttention-4 on one mask, its lists converted once.

    Args:
        mask: kept blocks.
    """

    def __init__(self, mask: BlockMask) -> None:
        self._run, lists, self._causal = package()
        self._lists = lists(*split_lists(mask), block_size=(BLOCK, BLOCK))

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of ``[B, Hq, Lq, D]`` to ``[B, Hkv, Lk, D]``: ``[B, Hq, Lq, D]``."""
        output: Tensor = self._run(
            *(aligned(one).transpose(1, 2) for one in (query, key, value)),
            softmax_scale=scale,
            mask_mod=self._causal,
            block_sparse_tensors=self._lists,
        )[0]
        return output.transpose(1, 2)


def block_sparse_fa4(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, *, scale: float
) -> Tensor:
    """Exact attention over the kept blocks by FlashAttention-4.

    Arguments, result and errors as for :func:`method.attention.block_sparse_attention`, and those of
    :func:`check_fa4`; bf16 and fp16 with heads of 64, 96 and 128. The first call compiles for some
    seconds.
    """
    check_attention(query, key, value, scale)
    check_mask(query, key, mask)
    check_fa4(query)
    return ListsFA4(mask)(query, key, value, scale)
