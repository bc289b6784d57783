"""The estimate's kernels against their PyTorch twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.keep import RR_KEEP
from method.ops.rr_scores.key_sums import pool_keys_triton
from method.ops.rr_scores.torch import block_scores, pool_keys
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.torch import SELECTORS
from method.rr import RRAttention
from tests.attention_cases import Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
# Every length, group, head size and stride, and shifts that are not whole strides.
CASES = [
    (Case(1, 1, group=4, dim=64), 4),
    (Case(127, 127, group=7, dim=96), 8),
    (Case(128, 128, group=8, dim=128), 16),
    (Case(129, 129, group=1, dim=64, kv_heads=2), 32),
    (Case(1000, 1000, group=4, dim=64, kv_heads=2, batch=2), 8),
    (Case(1000, 1000, group=1, dim=128), 64),
    (Case(257, 700, group=7, dim=64), 16),
    (Case(200, 333, group=8, dim=96), 4),
    (Case(4096, 4096, group=2, dim=64), 8),
    (Case(100, 2305, group=2, dim=64), 8),
]


def scores_of(estimate, query, key, stride, **options):
    return estimate(query, key, scale=0.2, stride=stride, **options)


@few_of({"case,stride": CASES, "dtype": DTYPES})
def test_scores_match_the_twin(case, stride, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    truth = scores_of(block_scores, query, key, stride)
    scores = scores_of(block_scores_triton, query, key, stride)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, truth, atol=2e-5, rtol=1e-4)
    mass = truth.sum(-1)[..., :-1]
    torch.testing.assert_close(mass, torch.full_like(mass, 128 / stride))


def test_logits_far_below_zero(kernel_device, poisoned):
    case = Case(3000, 3000, group=2)
    query, key, _ = tensors(case, torch.float16, kernel_device)
    query, key = query.abs() + 1, -key.abs() - 1
    truth = scores_of(block_scores, query, key, 8)
    scores = scores_of(block_scores_triton, query, key, 8)
    torch.testing.assert_close(scores, truth, atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "option",
    [
        {"offset": "reversed"},
        {"offset": "random", "layer": 3},
        {"offset": "head_layer", "layer": 3},
        {"offset": 5},
        {"over_samples": "max"},
    ],
    ids=str,
)
def test_options_match_the_twin(option, kernel_device):
    query, key, _ = tensors(Case(700, 829, group=5), torch.float16, kernel_device)
    truth = scores_of(block_scores, query, key, 8, **option)
    scores = scores_of(block_scores_triton, query, key, 8, **option)
    torch.testing.assert_close(scores, truth, atol=2e-5, rtol=1e-4)
    assert not torch.equal(truth, scores_of(block_scores, query, key, 8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "dim", "stride"), [(1000, 64, 16), (129, 96, 64), (7, 128, 8)])
def test_pooled_keys_match_the_twin(length, dim, stride, dtype, kernel_device, poisoned):
    _, key, _ = tensors(Case(length, length, dim=dim, kv_heads=2), dtype, kernel_device)
    truth = pool_keys(key, stride)
    pooled = pool_keys_triton(key, stride)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(pooled, truth, atol=ulp, rtol=ulp)


@pytest.mark.parametrize("selector", SELECTORS)
def test_both_estimators_choose_the_same_blocks(selector, kernel_device):
    query, key, _ = tensors(Case(1000, 1000, group=4), device=kernel_device)
    masks = [
        RRAttention(tau=0.8, selector=selector, estimator=estimator)
        .select(query, key, scale=0.25, layer=0, keep=RR_KEEP)
        .to_map()
        for estimator in ("torch", "triton")
    ]
    assert torch.equal(*masks)


def test_unsupported_head_size_says_what_is_supported(kernel_device):
    query, key, _ = tensors(Case(128, 128, dim=80), device=kernel_device)
    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        scores_of(block_scores_triton, query, key, 8)
