"""What the Triton kernels of block-sparse attention do alike around their launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from method.blocks import BlockMask
from method.ops.launch import Ready
from method.ops.triton_support import unit_stride


def attend_prepared(
    run: Ready,
    copied: Sequence[bool],
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: BlockMask,
    with_lse: bool,
    *more: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Allocate the results and launch a kernel that is ready for such tensors.

    Args:
        run: takes query, key, value, output, log-sum-exp (the output where none is asked for), indices,
            counts, and ``more``.
        copied: which of query, key and value the kernel can only take as contiguous copies.
        tensors: query ``[B, Hq, Lq, D]``, key and value ``[B, Hkv, Lk, D]``.
        mask: kept blocks.
        with_lse: whether the log-sum-exp is asked for.
        more: what else the kernel takes.

    Returns:
        Output ``[B, Hq, Lq, D]``, a transposed view of a contiguous ``[B, Lq, Hq, D]``, and fp32
        ``[B, Hq, Lq]`` or None.
    """
    query = tensors[0]
    batch, heads, q_len, dim = query.shape
    output = query.new_empty(batch, q_len, heads, dim).transpose(1, 2)
    lse = query.new_empty(batch, heads, q_len, dtype=torch.float32) if with_lse else None
    given = [one.contiguous() if copy else one for one, copy in zip(tensors, copied, strict=True)]
    indices = unit_stride(mask.indices)
    run(*given, output, output if lse is None else lse, indices, mask.counts, *more)
    return output, lse
