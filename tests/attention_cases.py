"""Random attention inputs and block masks for the kernel tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from method.blocks import BlockMask, causal_map, num_blocks
from method.keep import NO_KEEP, RR_KEEP, KeepPolicy


@dataclass(frozen=True)
class Case:
    """One shape: lengths, GQA group, head size, and how much of the causal map is kept."""

    q_len: int
    k_len: int
    group: int = 1
    dim: int = 64
    density: float = 0.4
    keep: KeepPolicy = RR_KEEP
    batch: int = 1
    kv_heads: int = 1

    @property
    def heads(self) -> int:
        return self.group * self.kv_heads

    def __str__(self) -> str:
        return f"q{self.q_len}-k{self.k_len}-g{self.group}x{self.kv_heads}-d{self.dim}-{self.density}"


# Together: every length of the acceptance list, ragged and unaligned shifts, every group and head
# size, masks without any kept block in a row, several KV heads and batches.
CASES = [
    Case(1, 1, group=4, dim=64),
    Case(127, 127, group=7, dim=96, density=1.0),
    Case(128, 128, group=8, dim=128),
    Case(129, 129, group=1, dim=64, kv_heads=2, density=0.0),
    Case(1000, 1000, group=4, dim=64, density=0.3),
    Case(1000, 1000, group=1, dim=96, density=0.3, keep=NO_KEEP, kv_heads=2),
    Case(129, 385, group=7, dim=128, density=0.5),
    Case(256, 700, group=4, dim=64, density=0.4, keep=NO_KEEP, kv_heads=2, batch=2),
    Case(1, 300, group=8, dim=96, density=0.5),
    Case(257, 384, group=1, dim=64, density=1.0, kv_heads=3),
]


def tensors(
    case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Query (with the strides transformers gives it), key and value."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int, heads: int) -> Tensor:
        shape = (case.batch, length, heads, case.dim)
        return torch.randn(shape, generator=generator).to(device, dtype).transpose(1, 2)

    query, key, value = (draw(case.q_len, case.heads), *(draw(case.k_len, case.kv_heads) for _ in "kv"))
    return query, key.contiguous(), value


def random_mask(case: Case, device: str = "cpu", seed: int = 0) -> BlockMask:
    """A random causal mask with the case's density and always-kept blocks.

    The lists' padding is far out of range, so that a kernel that reads it is found out.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (case.batch, case.heads, num_blocks(case.q_len), num_blocks(case.k_len))
    chosen = torch.rand(shape, generator=generator) < case.density
    chosen |= case.keep.forced(case.q_len, case.k_len)
    chosen &= causal_map(case.q_len, case.k_len)
    mask = BlockMask.from_map(chosen.to(device), case.q_len, case.k_len)
    padding = torch.arange(mask.columns, device=device) >= mask.counts[..., None]
    indices = mask.indices.masked_fill(padding, 1 << 20)
    return BlockMask(indices, mask.counts, case.q_len, case.k_len)
