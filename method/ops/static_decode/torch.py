"""Masked SDPA over the whole buffer: the reference, and what runs on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def static_decode_torch(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, *, scale: float
) -> Tensor:
    """Exact attention of one new token to the first ``length`` keys; see ``static_decode_triton``."""
    seen = torch.arange(key.shape[2], device=key.device) < length
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=seen[None, None, None], scale=scale, enable_gqa=True
    )
