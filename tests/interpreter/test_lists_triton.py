"""Lists of a block map by Triton: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.kernels.lists_triton import map_lists

pytestmark = pytest.mark.interpreter


@pytest.mark.parametrize("columns", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_lists_are_those_of_a_stable_sort(columns, share, kernel_device, poisoned):
    generator = torch.Generator().manual_seed(columns)
    keep = torch.rand(2, 3, 5, columns, generator=generator) < share
    indices, counts = map_lists(keep.to(kernel_device))
    assert torch.equal(indices.cpu(), torch.argsort(~keep, dim=-1, stable=True).int())
    assert torch.equal(counts.cpu(), keep.sum(-1, dtype=torch.int32))


def test_a_map_with_other_strides(kernel_device):
    keep = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    turned = keep.transpose(2, 3).contiguous().transpose(2, 3).to(kernel_device)
    assert torch.equal(map_lists(turned)[1].cpu(), keep.sum(-1, dtype=torch.int32))
