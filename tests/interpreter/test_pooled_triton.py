"""Block means and their attention map against the twins: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.blocks import BLOCK
from method.ops.pooled.torch import pooled_map, pooled_map_triton, pooled_weights
from method.ops.pooled.triton import mean_tiles_triton, pooled_weights_triton
from method.ops.vertical_slash.torch import mean_tiles
from tests.attention_cases import Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
CASES = [
    Case(1, 1, group=4, dim=64),
    Case(1000, 1000, group=2, dim=64, kv_heads=2, batch=2),
    Case(257, 700, group=3, dim=96),
    Case(4500, 4609, group=1, dim=128, kv_heads=2),
]


@few_of({"case": CASES, "size": [64, 128], "dtype": DTYPES})
def test_means_match_the_twin(case, size, dtype, kernel_device, poisoned):
    for tensor in tensors(case, dtype, kernel_device)[:2]:
        means = mean_tiles_triton(tensor, size)
        torch.testing.assert_close(means, mean_tiles(tensor, size), atol=2e-6, rtol=1e-5)
        flags = torch.arange(tensor.shape[0] * tensor.shape[1], device=kernel_device) % 2 == 0
        flags = flags.view(tensor.shape[:2])
        assert torch.equal(mean_tiles_triton(tensor, size, flags)[flags], means[flags])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_map_and_its_highest_entries_match_the_twin(case, kernel_device, poisoned):
    query, key, _ = tensors(case, device=kernel_device)
    rows, columns = mean_tiles(query * 4, BLOCK), mean_tiles(key * 4, BLOCK)
    flags = torch.ones(query.shape[:2], dtype=torch.bool, device=kernel_device)
    flags[:, 1::3] = False
    shape = (0.3, case.q_len, case.k_len)
    weights = pooled_weights_triton(rows, columns, flags, *shape)
    owned = columns.repeat_interleave(case.group, 1)
    truth = pooled_weights(rows.flatten(0, 1), owned.flatten(0, 1), *shape)
    wanted = flags.flatten()
    torch.testing.assert_close(weights.flatten(0, 1)[wanted], truth[wanted], atol=1e-6, rtol=1e-5)
    for gamma in (0.3, 0.9):
        options = (shape[0], gamma, *shape[1:])
        chosen = pooled_map_triton(rows, columns, flags, *options).flatten(0, 1)[wanted]
        slow = pooled_map(rows.flatten(0, 1), owned.flatten(0, 1), *options)[wanted]
        # Rounding may move an entry at the limit.
        assert int((chosen != slow).sum()) <= 1
