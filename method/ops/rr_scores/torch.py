"""Block importance from sampled queries, in readable PyTorch (the Triton kernels' twin).

Every stride of ``S`` tokens is probed by one query per head, and the heads take turns: head ``h``
samples the token at offset ``h mod S``. RRAttention (arXiv 2602.05853) lets a sampled query meet the
*sum* of each stride's keys, so that its logit is ``S`` times the mean logit over the stride, and adds
up what the samples of a query block say. Other keys and the largest share of any sample are
:class:`method.rr_plus.RRPlus`'s.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_qk

OFFSETS = ("head", "reversed", "head_layer", "random")
BY_LAYER = ("head_layer", "random")
"""Offsets that depend on the layer."""
KEYS = ("mean", "spread", "exact", "largest")
WITH_KERNEL = ("mean", "exact", "largest")
"""Those of :data:`KEYS` that Triton kernels estimate by."""

OVER_SAMPLES = ("sum", "max")
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


def key_variances(key: Tensor, stride: int) -> Tensor:
    """Variance of every dimension within every stride's keys: ``[B, Hkv, ceil(Lk / S), D]``.

    fp32 (fp64 for fp64 keys); tokens past the end count as zero keys, as in :func:`pool_keys`.
    """
    work = torch.promote_types(key.dtype, torch.float32)
    padded = F.pad(key.to(work), (0, 0, 0, -key.shape[2] % stride))
    return padded.unflatten(2, (-1, stride)).var(3, correction=0)


def block_scores(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    keys: str = "mean",
    spread: float = 2.0,
    over_samples: str = "sum",
    chunk_rows: int | None = None,
) -> Tensor:
    """Estimated importance of every (query row, key block).

    Each sampled query gets a softmax over the keys up to its own position, or over the strides up to
    its own (inclusive: mean keys let it see a few future keys, which matters to the selection only).
    Its probabilities are added up by key block, and the samples of a query row are reduced to one
    score: their sum, of which a full row has 128 / S in all, or the largest.

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        scale: factor on the logits.
        stride: ``S``, a power of two that divides 128.
        offset: see :func:`sample_starts`.
        layer: index of the decoder layer, which some offsets turn with.
        keys: what a query meets. "mean" is the mean key of each stride; "spread" the same, with
            ``spread`` standard deviations of the stride's logits on top, as if the dimensions of its
            keys varied independently; "exact" every key; "largest" the best key of each stride.
        spread: see ``keys``.
        over_samples: "sum" or "max" over the samples of a query row.
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
    check_options(keys, over_samples)
    batch, heads, q_len, _ = query.shape
    shift, per = key.shape[2] - q_len, BLOCK // stride
    work = torch.promote_types(query.dtype, torch.float32)
    unit = 1 if keys in ("exact", "largest") else stride
    met = (key if unit == 1 else pool_keys(key, stride)).to(work)
    variance = key_variances(key, stride) * spread**2 if keys == "spread" else None
    starts = sample_starts(heads, stride, shift, offset, query.device, layer)
    rows = num_blocks(q_len)
    if chunk_rows is None:
        chunk_rows = max(1, _CHUNK_LOGITS // (batch * heads * per * met.shape[2]))
    scores = query.new_zeros(batch, heads, rows, num_blocks(key.shape[2]), dtype=work)
    for first in range(0, rows, chunk_rows):
        last = min(first + chunk_rows, rows)
        samples = torch.arange(first * per, last * per, device=query.device)
        tokens = starts[:, None] + samples * stride
        reach = min((last * BLOCK - 1 + shift) // unit + 1, met.shape[2])
        logits = _sample_logits(
            query, met[:, :, :reach], tokens, None if variance is None else variance[:, :, :reach]
        )
        newest = (tokens + shift) // unit
        future = torch.arange(reach, device=query.device) > newest[..., None]
        logits = (logits * scale).masked_fill_(future, -torch.inf)
        if keys == "largest":
            logits = F.pad(logits, (0, -reach % stride), value=-torch.inf)
            logits = logits.unflatten(-1, (-1, stride)).amax(-1)
        shares = _block_shares(logits, BLOCK // (stride if keys == "largest" else unit))
        shares = shares.masked_fill_(~(tokens < q_len)[..., None], 0).unflatten(2, (-1, per))
        part = shares.sum(3) if over_samples == "sum" else shares.amax(3)
        scores[:, :, first:last, : part.shape[-1]] = part
    return scores


def check_options(keys: str, over_samples: str) -> None:
    """Raise ``ValueError`` unless both are known."""
    for name, value, allowed in (
        ("keys", keys, KEYS),
        ("over_samples", over_samples, OVER_SAMPLES),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")


def _sample_logits(query: Tensor, keys: Tensor, tokens: Tensor, variance: Tensor | None) -> Tensor:
    """Unscaled logits ``[B, Hq, samples, reach]`` of sampled queries and ``[B, Hkv, reach, D]`` keys.

    ``tokens`` is int64 ``[Hq, samples]``: the sampled queries of each head; those past the end repeat
    the last. ``variance``, of the keys' shape, adds the standard deviation that it makes.
    """
    batch, heads, q_len, dim = query.shape
    head = torch.arange(heads, device=query.device)[:, None]
    picked = query[:, head, tokens.clamp(max=q_len - 1)].to(keys.dtype)
    grouped = picked.reshape(batch, keys.shape[1], -1, dim)
    logits = grouped @ keys.transpose(-1, -2)
    if variance is not None:
        logits = logits + (grouped.square() @ variance.transpose(-1, -2)).sqrt()
    return logits.view(batch, heads, -1, keys.shape[2])


def _block_shares(logits: Tensor, per: int) -> Tensor:
    """Softmax over the last dimension, added up by blocks of ``per``."""
    weights = F.pad(logits.softmax(-1), (0, -logits.shape[-1] % per))
    return weights.unflatten(-1, (-1, per)).sum(-1)
