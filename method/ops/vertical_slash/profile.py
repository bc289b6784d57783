"""Where the last queries look: attention by key and by distance (the Triton kernel's twin).

FlexPrefill (arXiv 2502.20766) and MInference (arXiv 2407.02490) both judge a whole prompt by its
last queries: columns of their attention map become vertical lines, its diagonals slashes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from method.ops.checks import check_qk


def attention_profile(query: Tensor, key: Tensor, *, scale: float, last: int) -> tuple[Tensor, Tensor]:
    """Attention of the last queries, added up by key and by distance.

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        scale: factor on the logits.
        last: how many queries; all of them if there are fewer.

    Returns:
        Two tensors ``[B, Hq, Lk]``, fp32 (fp64 for fp64 inputs), each of which sums to the number of
        queries: the mass on every key, and the mass at every distance ``o`` from query back to
        key. Distances that only the newest queries can have are sums over those.

    Raises:
        ValueError: shapes or lengths do not fit, or ``last`` is not positive.
        TypeError: dtypes differ.
    """
    check_qk(query, key)
    if last < 1:
        raise ValueError(f"last={last}: at least one query is needed")
    batch, heads, q_len, dim = query.shape
    kv_heads, k_len = key.shape[1], key.shape[2]
    count = min(last, q_len)
    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    grouped = query[:, :, -count:].to(work).reshape(batch, kv_heads, -1, dim)
    logits = (grouped @ key.to(work).transpose(-1, -2)) * scale
    logits = logits.view(batch, heads, count, k_len)
    future = torch.ones(count, k_len, dtype=torch.bool, device=query.device).triu(k_len - count + 1)
    weights = logits.masked_fill_(future, -torch.inf).softmax(-1)
    return weights.sum(2), _by_distance(weights)


def _by_distance(weights: Tensor) -> Tensor:
    """Sums along the diagonals of ``[B, Hq, count, Lk]``, indexed by distance: ``[B, Hq, Lk]``.

    Newest query first and newest key first, query ``i`` and key ``e`` lie ``e - i`` apart, so
    reading each row one element later than the row before lines the distances up.
    """
    batch, heads, count, k_len = weights.shape
    turned = F.pad(weights.flip(2, 3), (0, count))
    outer = turned.stride()[:2]
    width = k_len + count
    return turned.as_strided((batch, heads, count, k_len), (*outer, width + 1, 1)).sum(2)
