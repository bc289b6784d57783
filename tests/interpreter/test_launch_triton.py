"""Kernels launched again on other tensors: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.keep import RR_KEEP
from method.ops.launch import Launches
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.torch import select_blocks
from method.ops.top_p.triton import select_blocks_triton
from tests.attention_cases import Case, tensors

pytestmark = pytest.mark.interpreter


def test_a_launch_that_was_kept_takes_other_tensors(kernel_device, poisoned):
    launches, sizes = Launches(), []
    for length, seed in ((700, 0), (700, 1), (300, 2), (700, 3)):
        query, key, _ = tensors(Case(length, length, group=2), torch.float16, kernel_device, seed)
        with launches:
            scores = block_scores_triton(query, key, scale=0.2, stride=8)
            options = {"tau": 0.8, "selector": "released", "keep": RR_KEEP}
            mask = select_blocks_triton(scores, length, length, **options)
        truth = block_scores(query, key, scale=0.2, stride=8)
        torch.testing.assert_close(scores, truth, atol=2e-5, rtol=1e-4)
        assert torch.equal(mask.to_map(), select_blocks(scores, length, length, **options))
        sizes.append(len(launches))
    assert sizes == [3, 3, 6, 6]
