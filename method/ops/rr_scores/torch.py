"""RRAttention's estimate of block importance, in readable PyTorch (the Triton kernel's twin).

Every stride of ``S`` tokens is probed by one query per head, and the heads take turns: head ``h``
samples the token at offset ``h mod S``. A sampled query meets the *sum* of each stride's keys, so
its logit is ``S`` times the mean logit over the stride. See RRAttention (arXiv 2602.05853), the
sampling and stride-level scoring steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_qk

OFFSETS = ("head", "reversed", "head_layer", "random")
_CHUNK_LOGITS = 1 << 22


def sample_starts(
    heads: int,
    stride: int,
    shift: int,
    offset: str | int,
    device: torch.device | str = "cpu",
    layer: int = 0,
) -> Tensor:
    """First sampled query token of every head, counted within the queries: int64 ``[Hq]``.

    Sampling is fixed to absolute positions ``t`` with ``t mod S`` equal to the head's offset, so
    that cutting a prompt into chunks samples the same tokens. With ``shift = k_len - q_len`` not
    a multiple of ``S`` the first sample moves accordingly; every query row still holds 128 / S
    samples.

    Args:
        heads: query heads; the head index is the layer's global one.
        stride: ``S``.
        shift: key position of the first query.
        offset: "head" for ``h mod S`` (the released code), "reversed" for ``(S-1-h) mod S`` (the
            same offsets, dealt to the heads in reverse), "head_layer" for ``(h + layer) mod S``,
            "random" for a fixed pseudo-random draw per layer and head, or a number from 0 to
            ``S - 1``, the same for all heads.
        device: where the answer is made; nothing is copied from the host.
        layer: index of the decoder layer.

    Raises:
        ValueError: ``offset`` is unknown, or a number out of range.
    """
    phase = torch.arange(heads, device=device)
    if offset == "reversed":
        phase = stride - 1 - phase
    elif offset == "head_layer":
        phase = phase + layer
    elif offset == "random":
        # Multiplying and folding mixes the index well enough for one draw out of S.
        mixed = (phase + 1 + (layer + 1) * 4099) * 2654435761 % (1 << 32)
        phase = ((mixed ^ (mixed >> 15)) * 1812433253 % (1 << 32)) >> 16
    elif isinstance(offset, int) and 0 <= offset < stride:
        phase = torch.full_like(phase, offset)
    elif offset != "head":
        names = ", ".join(OFFSETS)
        raise ValueError(f"offset={offset!r} is not one of {names} or a number from 0 to {stride - 1}")
    return (phase - shift) % stride


def pool_keys(key: Tensor, stride: int) -> Tensor:
    """Mean key of every stride: ``[B, Hkv, ceil(Lk / S), D]`` in the key's dtype.

    The sum over the stride, in fp32, divided by ``S`` and rounded once: as ``S`` is a power of two
    this rounds exactly like the sum, and cannot overflow in fp16. Tokens past the end count as
    zero keys, so a stride that the end cuts has a slightly shrunken mean.

    Args:
        key: ``[B, Hkv, Lk, D]``.
        stride: ``S``, a power of two.
    """
    missing = -key.shape[2] % stride
    groups = F.pad(key, (0, 0, 0, missing)).unflatten(2, (-1, stride))
    work = torch.float64 if key.dtype == torch.float64 else torch.float32
    return (groups.sum(3, dtype=work) / stride).to(key.dtype)


def block_scores(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    chunk_rows: int | None = None,
) -> Tensor:
    """Estimated attention mass of every (query row, key block).

    Each sampled query gets a softmax over the key strides up to its own (inclusive: within that
    stride it also sees a few future keys, which matters to the selection only). Its probabilities
    are added up by key block, and the samples of a query row are added together, so a full row
    sums to 128 / S.

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        scale: factor on the logits.
        stride: ``S``, a power of two that divides 128.
        offset: see :func:`sample_starts`.
        layer: index of the decoder layer, which some offsets turn with.
        chunk_rows: query rows per step, to bound memory; by default about 4 million logits at
            a time. Has no influence on the result beyond rounding.

    Returns:
        ``[B, Hq, rows, columns]``, fp32 (fp64 for fp64 inputs). Samples past the last query
        contribute nothing: a ragged last row may sum to less, even to 0.

    Raises:
        ValueError: shapes or lengths do not fit, or an option is unknown.
        TypeError: dtypes differ.
    """
    check_qk(query, key)
    batch, heads, q_len, _ = query.shape
    shift, per = key.shape[2] - q_len, BLOCK // stride
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    pooled = pool_keys(key, stride).to(work)
    starts = sample_starts(heads, stride, shift, offset, query.device, layer)
    rows = num_blocks(q_len)
    if chunk_rows is None:
        chunk_rows = max(1, _CHUNK_LOGITS // (batch * heads * per * pooled.shape[2]))
    scores = query.new_zeros(batch, heads, rows, num_blocks(key.shape[2]), dtype=work)
    for first in range(0, rows, chunk_rows):
        last = min(first + chunk_rows, rows)
        samples = torch.arange(first * per, last * per, device=query.device)
        tokens = starts[:, None] + samples * stride
        reach = min((last * BLOCK - 1 + shift) // stride + 1, pooled.shape[2])
        part = _row_scores(query, pooled[:, :, :reach], tokens, shift, scale=scale, stride=stride)
        scores[:, :, first:last, : part.shape[-1]] = part
    return scores


def _row_scores(
    query: Tensor, pooled: Tensor, tokens: Tensor, shift: int, *, scale: float, stride: int
) -> Tensor:
    """Scores of whole query rows over the pooled keys ``[B, Hkv, reach, D]`` they can see.

    ``tokens`` is int64 ``[Hq, rows * 128 / S]``: the sampled queries of each head.
    """
    batch, heads, q_len, _ = query.shape
    kv_heads, reach, per = pooled.shape[1], pooled.shape[2], BLOCK // stride
    real = tokens < q_len
    picked = query[:, torch.arange(heads, device=query.device)[:, None], tokens.clamp(max=q_len - 1)]
    grouped = picked.to(pooled.dtype).reshape(batch, kv_heads, -1, query.shape[3])
    logits = (grouped @ pooled.transpose(-1, -2)) * scale
    logits = logits.view(batch, heads, -1, reach)
    stride_at = torch.arange(reach, device=query.device)
    future = stride_at > ((tokens + shift) // stride)[..., None]
    weights = logits.masked_fill_(future, -torch.inf).softmax(-1)
    weights = weights.masked_fill_(~real[..., None], 0)
    weights = F.pad(weights, (0, -reach % per))
    return weights.view(batch, heads, -1, per, weights.shape[-1] // per, per).sum((3, 5))
