"""Naive attention over a block mask: the truth that the fast kernels are tested against."""

from __future__ import annotations

import torch
from torch import Tensor

from method.blocks import BLOCK, BlockMask
from method.ops.checks import check_attention, check_mask


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to every visible token of the kept blocks, one query row at a time.

    Args:
        query: ``[B, Hq, Lq, D]``, any floating dtype and strides.
        key: ``[B, Hkv, Lk, D]``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        mask: kept blocks for these lengths.
        scale: positive factor on the logits.

    Returns:
        Output ``[B, Hq, Lq, D]`` in the query's dtype, and the natural log-sum-exp of the scaled
        logits ``[B, Hq, Lq]``. Work is fp64 for fp64 inputs and fp32 otherwise, which is also the
        LSE's dtype. A query that sees no key gets output 0 and LSE ``-inf``.

    Raises:
        ValueError: shapes, lengths or devices do not fit.
        TypeError: dtypes differ.
    """
    check_attention(query, key, value, scale)
    check_mask(query, key, mask)
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    group = query.shape[1] // key.shape[1]
    keys = key.to(work).repeat_interleave(group, dim=1)
    values = value.to(work).repeat_interleave(group, dim=1)
    keep, shift = mask.to_map(), mask.k_len - mask.q_len
    key_at = torch.arange(mask.k_len, device=query.device)
    outputs, sums = [], []
    for row in range(mask.rows):
        tokens = query[:, :, row * BLOCK : (row + 1) * BLOCK].to(work)
        query_at = row * BLOCK + torch.arange(tokens.shape[2], device=query.device) + shift
        block_kept = keep[:, :, row].repeat_interleave(BLOCK, dim=-1)[..., : mask.k_len]
        seen = block_kept[:, :, None, :] & (key_at[None, :] <= query_at[:, None])
        logits = (tokens @ keys.transpose(-1, -2)) * scale
        logits = logits.masked_fill(~seen, -torch.inf)
        log_sum = torch.logsumexp(logits, dim=-1)
        # A row without keys has log-sum -inf; subtracting 0 instead makes its weights exp(-inf) = 0.
        base = log_sum.masked_fill(log_sum == -torch.inf, 0.0)
        outputs.append((logits - base[..., None]).exp() @ values)
        sums.append(log_sum)
    return torch.cat(outputs, dim=2).to(query.dtype), torch.cat(sums, dim=2)
