"""Lists of a block map and of lines by Triton: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.blocks import num_blocks
from method.density import check_causal
from method.keep import EQUAL_KEEP, KeepPolicy
from method.ops.lists import map_lists, share_of_blocks
from method.ops.vertical_slash.selection import line_mask
from tests.attention_cases import NO_KEEP

pytestmark = pytest.mark.interpreter

SINK_ONLY = KeepPolicy(sink=True, diagonal=False, last_row=False)


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


@pytest.mark.parametrize("keep", [NO_KEEP, EQUAL_KEEP, SINK_ONLY], ids=["none", "equal", "sink"])
@pytest.mark.parametrize(
    ("q_len", "k_len"), [(1, 1), (128, 128), (1000, 1000), (257, 700), (1, 900), (300, 384)]
)
def test_lists_of_lines_are_those_of_their_map(q_len, k_len, keep, kernel_device, poisoned):
    generator = torch.Generator().manual_seed(q_len + k_len)
    rows, columns = num_blocks(q_len), num_blocks(k_len)

    def draw(*shape: int, share: float = 0.3) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator) < share).to(kernel_device)

    lines = draw(2, 3, columns), draw(2, 3, columns + 1)
    newest = torch.arange(rows, device=kernel_device) + num_blocks(k_len - q_len)
    others, flags = draw(2, 3, rows, columns), draw(2, 3, share=0.5)
    for part in ({}, {"others": others, "flags": flags}):
        fast, slow = (
            line_mask(*lines, newest, q_len, k_len, keep, triton=triton, **part)
            for triton in (True, False)
        )
        check_causal(fast)
        assert torch.equal(fast.to_map(), slow.to_map())


@pytest.mark.parametrize("rows", [1, 128, 300])
def test_shares_of_blocks(rows, kernel_device, poisoned):
    counts = torch.randint(0, 1024, (2, 3, rows), dtype=torch.int32)
    found = share_of_blocks(counts.to(kernel_device), 1 << 19).cpu()
    torch.testing.assert_close(found, counts.sum(-1) / float(1 << 19), atol=0, rtol=1e-7)
