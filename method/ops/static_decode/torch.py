"""Row by row, over the keys that exist: the reference, and what runs on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from method.ops.dense import dense_decode


def static_decode_torch(
    query: Tensor, key: Tensor, value: Tensor, length: Tensor, *, scale: float
) -> Tensor:
    """Exact attention of one new token to the first keys of its row; see ``static_decode_triton``."""
    rows = []
    for row, seen in enumerate(length.tolist()):
        one = slice(row, row + 1)
        rows.append(dense_decode(query[one], key[one, :, :seen], value[one, :, :seen], scale))
    return torch.cat(rows)
