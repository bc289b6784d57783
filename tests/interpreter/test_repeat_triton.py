"""Calls repeated as the launches of an earlier one: on a GPU, or through the interpreter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch

from method.attention import SparsePrefill
from method.base import Method
from method.density import density_by_head
from method.keep import RR_KEEP
from method.ops import repeat
from method.ops.block_sparse.reference import reference_attention
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.triton import select_blocks_triton
from tests.attention_cases import Case, tensors

pytestmark = pytest.mark.interpreter

CASE = Case(600, 700, group=2, kv_heads=2)


@dataclass(frozen=True)
class Launching(Method):
    """RRAttention by its kernels on any device, and after it something that is no launch, if asked for."""

    paper_keep = RR_KEEP
    launches_only = True

    after: object = None
    asked: list[int] = field(default_factory=list)

    def select(self, query, key, *, scale, layer, keep):
        self.asked.append(layer)
        scores = block_scores_triton(query, key, scale=scale, stride=8)
        if self.after:
            scores = self.after(scores)
        options = {"tau": 0.3, "selector": "released", "keep": keep}
        return select_blocks_triton(scores, query.shape[2], key.shape[2], **options)


def run(prefill, case=CASE, *, seed, device, layer=0):
    """One call, checked against the reference; how often the method has been asked by then."""
    query, key, value = tensors(case, torch.float16, device, seed)
    found = prefill(query, key, value, scale=0.2, layer=layer)
    mask = Launching().select(query, key, scale=0.2, layer=0, keep=RR_KEEP)
    truth, _ = reference_attention(query.float(), key.float(), value.float(), mask, scale=0.2)
    torch.testing.assert_close(found.output.float(), truth, atol=5e-3, rtol=5e-3)
    assert torch.equal(found.density, mask.density) and found.kernel == "triton"
    assert torch.equal(mask.density, density_by_head(replace(mask, density=None)))
    assert 0 < float(mask.density.min()) < 1
    return len(prefill.method.asked)


def test_from_the_third_call_on_only_launches_are_repeated(kernel_device, poisoned):
    prefill = SparsePrefill(Launching(), RR_KEEP, "triton")
    other = Case(200, 700, group=2, kv_heads=2)
    asked = [run(prefill, seed=seed, device=kernel_device, layer=seed) for seed in range(4)]
    assert asked == [1, 2, 2, 2]
    small = [run_small(prefill, other, seed, kernel_device) for seed in range(3)]
    assert small == [3, 4, 4]  # another shape is another call
    assert run(prefill, seed=5, device=kernel_device) == 4


def run_small(prefill, case, seed, device):
    inputs = tensors(case, torch.float16, device, seed)
    found = prefill(*inputs, scale=0.2, layer=0)
    fresh = SparsePrefill(Launching(), RR_KEEP, "triton")(*inputs, scale=0.2, layer=0)
    assert torch.equal(found.output, fresh.output) and found.output.stride() == fresh.output.stride()
    return len(prefill.method.asked)


def test_results_of_repeated_calls_are_each_others_own(kernel_device):
    prefill = SparsePrefill(Launching(), RR_KEEP, "triton")
    inputs = [tensors(CASE, torch.float16, kernel_device, seed) for seed in range(4)]
    found = [prefill(*one, scale=0.2, layer=0) for one in inputs]
    for one, result in zip(inputs, found, strict=True):
        fresh = SparsePrefill(Launching(), RR_KEEP, "triton")(*one, scale=0.2, layer=0)
        assert torch.equal(result.output, fresh.output) and torch.equal(result.density, fresh.density)


@pytest.mark.parametrize(
    "after", [lambda scores: scores * 1, lambda scores: scores.clone()], ids=["product", "copy"]
)
def test_what_does_more_than_launch_is_asked_each_time(after, kernel_device):
    prefill = SparsePrefill(Launching(after), RR_KEEP, "triton")
    assert [run(prefill, seed=seed, device=kernel_device) for seed in range(3)] == [1, 2, 3]


def test_tensors_that_share_their_start_are_not_told_apart(kernel_device):
    prefill = SparsePrefill(Launching(), RR_KEEP, "triton")
    query, key, value = tensors(CASE, torch.float16, kernel_device)
    for _ in range(3):
        prefill(query, key, key, scale=0.2, layer=0)
    found = prefill(query, key, value, scale=0.2, layer=0)
    fresh = SparsePrefill(Launching(), RR_KEEP, "triton")(query, key, value, scale=0.2, layer=0)
    assert torch.equal(found.output, fresh.output)


def test_long_prompts_give_back_memory_early(kernel_device, monkeypatch):
    monkeypatch.setattr(repeat, "MOST_BYTES", 1 << 10)
    prefill = SparsePrefill(Launching(), RR_KEEP, "triton")
    assert [run(prefill, seed=seed, device=kernel_device) for seed in range(3)] == [1, 2, 3]
