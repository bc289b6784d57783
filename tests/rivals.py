"""Inputs on which the authors' code of newer methods was run, and masks as they are written down."""

from __future__ import annotations

import torch
from torch import Tensor

from method.blocks import BlockMask

SCALE = 0.25


def waves(length: int = 1024) -> tuple[Tensor, Tensor]:
    """Two query heads and one KV head of 16 dimensions: ``[1, 2, L, 16]`` and ``[1, 1, L, 16]``."""
    token = torch.arange(length, dtype=torch.float32)[:, None]
    dim = torch.arange(16, dtype=torch.float32)
    query = torch.stack([2 * torch.sin(0.01 * token + dim + head) for head in (0, 1)])[None]
    return query, 2 * torch.cos(0.013 * token + 0.5 * dim)[None, None]


def zeros(length: int = 1024) -> tuple[Tensor, Tensor]:
    """The same shapes, all logits equal."""
    return torch.zeros(1, 2, length, 16), torch.zeros(1, 1, length, 16)


def lists(mask: BlockMask, head: int = 0) -> str:
    """Kept key blocks of a head: rows separated by a bar, columns as digits."""
    rows = mask.to_map()[0, head]
    return "|".join("".join(str(int(c)) for c in row.nonzero().flatten()) for row in rows)
