"""FlashPrefill's energy of every (query block, key block), in readable PyTorch: the kernel's twin."""

from __future__ import annotations

import torch
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.checks import check_qk
from method.ops.vertical_slash.torch import mean_tiles

_CHUNK_LOGITS = 1 << 24


def block_energies(query: Tensor, key: Tensor, *, scale: float) -> Tensor:
    """Log of the summed exponentials of a block's queries against every block's mean key.

    A query takes part once it stands behind the whole key block, so only the last query of a block
    meets the block's own mean, and nothing but it. There is no softmax: a query with large logits
    outweighs the others. FlashPrefill (arXiv 2603.06199).

    Args:
        query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
        key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads not repeated; ``Lk >= Lq``.
        scale: factor on the logits.

    Returns:
        ``[B, Hq, rows, columns]``, fp32 (fp64 for fp64 inputs); ``-inf`` where no query takes part.

    Raises:
        ValueError: shapes or lengths do not fit.
        TypeError: dtypes differ.
    """
    check_qk(query, key)
    means = mean_tiles(key, BLOCK)
    return energies_of_means(query, means, scale=scale, k_len=key.shape[2])


def energies_of_means(query: Tensor, means: Tensor, *, scale: float, k_len: int) -> Tensor:
    """The same from the mean keys, ``[B, Hkv, columns, D]``, of ``k_len`` keys."""
    batch, heads, q_len, _ = query.shape
    columns, rows = means.shape[2], num_blocks(q_len)
    group = heads // means.shape[1]
    ends = (torch.arange(columns, device=query.device) + 1) * BLOCK - 1
    energies = means.new_empty(batch, heads, rows, columns)
    step = max(1, _CHUNK_LOGITS // (BLOCK * columns * batch * heads))
    for first in range(0, rows, step):
        part = query[:, :, first * BLOCK : (first + step) * BLOCK].to(means.dtype)
        tokens = torch.arange(part.shape[2], device=query.device) + first * BLOCK + k_len - q_len
        grouped = part.reshape(batch, means.shape[1], group * part.shape[2], -1)
        logits = ((grouped @ means.transpose(-1, -2)) * scale).view(batch, heads, -1, columns)
        logits = logits.masked_fill(tokens[:, None] < ends, -torch.inf)
        for row, tile in enumerate(logits.split(BLOCK, dim=2), first):
            energies[:, :, row] = tile.logsumexp(2)
    return energies
