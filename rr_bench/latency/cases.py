"""What is timed: shapes, random inputs, block masks of a set density, and how much work they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from method.blocks import BLOCK, BlockMask, causal_map, num_blocks
from method.density import causal_blocks
from method.keep import RR_KEEP


@dataclass(frozen=True)
class Shape:
    """One prefill of a decoder layer's attention: batch 1, queries as long as keys.

    Attributes:
        length: tokens.
        heads: query heads.
        kv_heads: KV heads.
        dim: head size.
        dtype: of queries, keys and values.
    """

    length: int
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    dtype: torch.dtype = torch.bfloat16

    @property
    def scale(self) -> float:
        """Factor on the logits."""
        return self.dim**-0.5


def random_inputs(shape: Shape, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Fresh random query, key and value, with the strides transformers gives them.

    Never zeros: they make products run faster than real data does.
    """
    generator = torch.Generator(device=device).manual_seed(seed)

    def draw(heads: int) -> Tensor:
        wanted = (1, shape.length, heads, shape.dim)
        drawn = torch.randn(wanted, generator=generator, device=device, dtype=torch.float32)
        return drawn.to(shape.dtype).transpose(1, 2)

    query, key, value = draw(shape.heads), draw(shape.kv_heads), draw(shape.kv_heads)
    return query, key.contiguous(), value.contiguous()


def random_mask(shape: Shape, density: float, device: torch.device, seed: int = 0) -> BlockMask:
    """A mask that keeps ``density`` of the causal blocks: RRAttention's always-kept ones, and others
    drawn evenly and independently for every head.
    """
    length = shape.length
    if density >= 1:
        blocks = BlockMask.causal(1, shape.heads, length, length, device)
        return BlockMask(blocks.indices.contiguous(), blocks.counts.contiguous(), length, length)
    forced = RR_KEEP.forced(length, length, device)
    share = float(forced.sum()) / causal_blocks(length, length)
    # Short prompts may be kept whole already.
    chance = max(0.0, (density - share) / (1 - share)) if share < 1 else 0.0
    generator = torch.Generator(device=device).manual_seed(seed)
    chosen = torch.empty(1, shape.heads, *forced.shape, dtype=torch.bool, device=device)
    for head in range(shape.heads):
        drawn = torch.rand(forced.shape, generator=generator, device=device) < chance
        chosen[0, head] = (drawn | forced) & causal_map(length, length, device)
    return BlockMask.from_map(chosen, length, length)


def attention_flops(mask: BlockMask, dim: int) -> float:
    """Floating-point operations of attention over the visible token pairs of the kept blocks.

    Counted as for dense causal attention: of a block on the diagonal only the lower triangle.
    For masks with as many queries as keys; a ragged end is counted as if it were whole.
    """
    rows = torch.arange(mask.rows, device=mask.counts.device)
    last = (mask.counts.long() - 1).clamp(min=0)[..., None]
    newest = mask.indices.gather(-1, last)[..., 0]
    diagonal = ((newest == rows) & (mask.counts > 0)).sum()
    whole = mask.counts.sum(dtype=torch.int64) - diagonal
    pairs = float(whole) * BLOCK * BLOCK + float(diagonal) * BLOCK * (BLOCK + 1) / 2
    return 4.0 * dim * pairs


def dense_flops(shape: Shape) -> float:
    """Floating-point operations of dense causal attention."""
    return 4.0 * shape.dim * shape.heads * shape.length * (shape.length + 1) / 2


def list_bytes(shape: Shape) -> int:
    """Bytes of a block mask's lists, which every method has to hand over."""
    blocks = num_blocks(shape.length)
    return 4 * shape.heads * blocks * (blocks + 1)
