"""RRAttention's estimate on a GPU: the Hopper kernel and the portable one, at lengths that count."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from method.ops.rr_scores import hopper
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from tests.attention_cases import Case, tensors
from tests.gpu import HOPPER

pytestmark = HOPPER

CASES = [
    Case(5000, 5000, group=4, dim=128, kv_heads=2),
    Case(16384, 16384, group=2, dim=128),
    Case(9001, 9001, group=7, dim=64, batch=2),
    Case(1000, 12345, group=8, dim=96),
    Case(2048, 6144, group=4, dim=128),
]


def combinations():
    """Sums at every stride and head size in bf16; fp16 and maxima at one; the others by command."""
    strides, dtypes, reductions = (4, 8, 16, 32, 64), (torch.bfloat16, torch.float16), ("sum", "max")
    for case, stride, dtype, reduction in product(CASES, strides, dtypes, reductions):
        bf16_sum = (dtype, reduction) == (torch.bfloat16, "sum")
        always = stride == 8 or (bf16_sum and case in (CASES[0], CASES[2]))
        marks = () if always else (pytest.mark.exhaustive,)
        name = f"{case}-{stride}-{dtype}-{reduction}"
        yield pytest.param(case, stride, dtype, reduction, marks=marks, id=name)


@pytest.mark.parametrize("hopper", [True, False], ids=["hopper", "portable"])
@pytest.mark.parametrize(("case", "stride", "dtype", "over_samples"), combinations())
def test_scores_match_the_twin(case, stride, hopper, over_samples, dtype, poisoned):
    query, key, _ = tensors(case, dtype, "cuda", seed=stride)
    options = {"scale": 0.2, "stride": stride, "over_samples": over_samples}
    truth = block_scores(query, key, **options)
    scores = block_scores_triton(query, key, **options, hopper=hopper)
    torch.testing.assert_close(scores, truth, atol=5e-5, rtol=5e-4)


@pytest.mark.parametrize("over_samples", ["sum", "max"])
@pytest.mark.parametrize("stride", [4, 8, 64])
@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_scores_match_the_twin_where_sums_are_packed(case, stride, over_samples, monkeypatch, poisoned):
    monkeypatch.setattr(hopper, "packs", lambda size, device: True)
    query, key, _ = tensors(case, torch.bfloat16, "cuda", seed=stride)
    options = {"scale": 0.2, "stride": stride, "over_samples": over_samples}
    truth = block_scores(query, key, **options)
    scores = block_scores_triton(query, key, **options, hopper=True)
    torch.testing.assert_close(scores, truth, atol=5e-5, rtol=5e-4)


def test_repeated_runs_agree_to_the_bit():
    query, key, _ = tensors(CASES[1], torch.bfloat16, "cuda")
    first = block_scores_triton(query, key, scale=0.1, stride=8)
    for _ in range(20):
        assert torch.equal(first, block_scores_triton(query, key, scale=0.1, stride=8))
