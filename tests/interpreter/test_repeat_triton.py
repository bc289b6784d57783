"""An executor's calls repeated as launches of an earlier one: on a GPU, or by the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from method.attention import SparsePrefill
from method.base import Method
from method.density import density_by_head
from method.keep import RR_KEEP
from method.ops.block_sparse.reference import reference_attention
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.triton import select_blocks_triton
from tests.attention_cases import Case, tensors

pytestmark = pytest.mark.interpreter

CASE = Case(300, 600, group=2, kv_heads=1)


@dataclass(frozen=True)
class Launching(Method):
    """RRAttention by its kernels, on any device; notes when it is asked."""

    paper_keep = RR_KEEP
    launches_only = True

    asked: list[int] = field(default_factory=list)

    def select(self, query, key, *, scale, layer, keep):
        self.asked.append(layer)
        scores = block_scores_triton(query, key, scale=scale, stride=8)
        options = {"tau": 0.3, "selector": "released", "keep": keep}
        return select_blocks_triton(scores, query.shape[2], key.shape[2], **options)


def test_an_executor_repeats_its_launches_on_other_tensors(kernel_device, poisoned):
    prefill = SparsePrefill(Launching(), RR_KEEP, "triton")
    for seed in range(4):
        query, key, value = tensors(CASE, torch.float16, kernel_device, seed)
        found = prefill(query, key, value, scale=0.2, layer=seed)
        mask = Launching().select(query, key, scale=0.2, layer=0, keep=RR_KEEP)
        truth, _ = reference_attention(query.float(), key.float(), value.float(), mask, scale=0.2)
        torch.testing.assert_close(found.output.float(), truth, atol=5e-3, rtol=5e-3)
        counted = density_by_head(replace(mask, density=None))
        assert torch.equal(mask.density, counted) and 0 < float(counted.min()) < 1
        assert torch.equal(found.density, counted) and found.kernel == "triton"
    assert prefill.method.asked == [0, 1]
