from __future__ import annotations

import pytest
import torch

from method.blocks import BlockMask
from method.density import causal_blocks, check_causal, density_by_head
from method.keep import RR_KEEP


def test_triangle_counts():
    assert causal_blocks(2048, 2048) == 16 * 17 // 2
    assert causal_blocks(256, 512) == 3 + 4
    assert causal_blocks(257, 384) == 2 + 3 + 3
    assert causal_blocks(1, 1) == 1


@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (129, 129), (1000, 1000), (200, 333)])
def test_causal_mask_has_density_one_exactly(q_len, k_len):
    density = density_by_head(BlockMask.causal(2, 3, q_len, k_len))
    assert density.dtype == torch.float32 and density.shape == (2, 3)
    assert bool((density == 1.0).all())


def test_density_is_per_head():
    keep = RR_KEEP.forced(2048, 2048).expand(1, 2, -1, -1).clone()
    keep[0, 1] = torch.ones(16, 16).tril().bool()
    density = density_by_head(BlockMask.from_map(keep, 2048, 2048))
    assert density[0].tolist() == pytest.approx([(1 + 2 * 14 + 16) / 136, 1.0])


def test_check_causal_names_what_is_wrong():
    check_causal(BlockMask.causal(1, 1, 300, 300))
    future = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    future[0, 0, 0, 1] = True
    with pytest.raises(ValueError, match="above the causal diagonal"):
        check_causal(BlockMask.from_map(future, 300, 300))
    twice = torch.zeros(1, 1, 3, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match="twice"):
        check_causal(BlockMask(twice, torch.tensor([[[1, 2, 1]]], dtype=torch.int32), 300, 300))
