"""The kernels for exact keys against their PyTorch twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.blocks import BLOCK
from method.keep import RR_KEEP
from method.ops.rr_scores import exact
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.triton_support import Launch
from method.rr_plus import RRPlus
from tests.attention_cases import Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
KINDS = [
    ("exact", "max", torch.float32),
    ("exact", "max", torch.float16),
    ("largest", "max", torch.float16),
    ("largest", "sum", torch.float16),
    pytest.param("exact", "max", torch.bfloat16, marks=bf16_on_gpu),
    pytest.param("largest", "max", torch.bfloat16, marks=bf16_on_gpu),
]
# Ragged ends, shifts that are not whole strides, rows without a sample, more blocks than a piece takes.
CASES = [
    (Case(1, 1, group=4, dim=64), 4),
    (Case(128, 128, group=2, dim=128), 16),
    (Case(129, 129, group=1, dim=64, kv_heads=2, batch=2), 32),
    (Case(257, 700, group=3, dim=64), 64),
    (Case(200, 333, group=2, dim=96), 8),
    (Case(150, 4500, group=1, dim=64), 16),
]


@few_of({"case,stride": CASES, "keys,over_samples,dtype": KINDS})
def test_scores_match_the_twin(case, stride, keys, over_samples, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    options = {"scale": 0.2, "stride": stride, "keys": keys, "over_samples": over_samples}
    truth = block_scores(query, key, **options)
    scores = block_scores_triton(query, key, **options)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, truth, atol=2e-5, rtol=1e-4)


def test_tensor_descriptors_give_the_same(kernel_device, poisoned):
    if not INTERPRETING and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("needs the copy engine of 9.0 and newer")
    query, key, _ = tensors(Case(201, 333, group=2, dim=96, kv_heads=2), torch.float16, kernel_device)
    options = {"scale": 0.2, "stride": 16, "over_samples": "max"}
    truth = block_scores(query, key, keys="exact", **options)
    launch = 32, Launch(BLOCK, 4, 2, tma=True)
    scores = exact.exact_scores_triton(query, key, launch=launch, **options)
    torch.testing.assert_close(scores, truth, atol=2e-5, rtol=1e-4)


def test_logits_far_below_zero(kernel_device, poisoned):
    query, key, _ = tensors(Case(300, 300), torch.float16, kernel_device)
    query, key = query.abs() + 1, -key.abs() - 1
    options = {"scale": 0.2, "stride": 16, "keys": "exact", "over_samples": "max"}
    truth = block_scores(query, key, **options)
    torch.testing.assert_close(block_scores_triton(query, key, **options), truth, atol=5e-3, rtol=1e-3)


def test_heads_are_taken_a_few_at_a_time(kernel_device, poisoned, monkeypatch):
    query, key, _ = tensors(Case(200, 200, group=3), torch.float16, kernel_device)
    options = {"scale": 0.2, "stride": 16, "keys": "largest", "over_samples": "max", "offset": "random"}
    whole = block_scores_triton(query, key, **options)
    monkeypatch.setattr(exact, "_ROOM", 2 * 2 * 2 * 8)
    assert torch.equal(block_scores_triton(query, key, **options), whole)


def test_both_estimators_choose_the_same_blocks(kernel_device):
    query, key, _ = tensors(Case(500, 500, group=2), device=kernel_device)
    masks = [
        RRPlus(estimator=estimator).select(query, key, scale=0.25, layer=0, keep=RR_KEEP).to_map()
        for estimator in ("torch", "triton")
    ]
    assert torch.equal(*masks)


def test_spread_has_no_kernel(kernel_device):
    query, key, _ = tensors(Case(128, 128), device=kernel_device)
    with pytest.raises(ValueError, match="keys='spread' has no Triton kernel"):
        block_scores_triton(query, key, scale=0.2, stride=8, keys="spread")
