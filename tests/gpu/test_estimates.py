"""Estimates other than RRAttention's own, on a GPU at lengths that count."""

from __future__ import annotations

import pytest
import torch

from method.ops.antidiagonal.torch import antidiagonal_peaks
from method.ops.antidiagonal.triton import antidiagonal_peaks_triton
from method.ops.block_energy.torch import block_energies
from method.ops.block_energy.triton import block_energies_triton
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from tests.attention_cases import Case, tensors

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
CASES = [
    Case(5000, 5000, group=4, dim=128, kv_heads=2),
    Case(16384, 16384, group=2, dim=128),
    Case(9001, 9001, group=7, dim=64, batch=2),
    Case(1000, 12345, group=8, dim=96),
]


@DTYPES
@pytest.mark.parametrize("keys", ["exact", "largest", "mean"])
@pytest.mark.parametrize("stride", [4, 16, 64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_largest_share_matches_the_twin(case, stride, keys, dtype, poisoned):
    query, key, _ = tensors(case, dtype, "cuda", seed=stride)
    options = {"scale": 0.2, "stride": stride, "keys": keys, "over_samples": "max"}
    truth = block_scores(query, key, **options)
    scores = block_scores_triton(query, key, **options)
    torch.testing.assert_close(scores, truth, atol=5e-5, rtol=5e-4)


@DTYPES
@pytest.mark.parametrize("case", CASES, ids=str)
def test_energies_match_the_twin(case, dtype, poisoned):
    query, key, _ = tensors(case, dtype, "cuda")
    energies = block_energies_triton(query, key, scale=0.2)
    truth = block_energies(query, key, scale=0.2)
    assert torch.equal(energies.isfinite(), truth.isfinite())
    # The twin's mean keys are not rounded to 16 bits.
    seen = truth.isfinite()
    torch.testing.assert_close(energies[seen], truth[seen].float(), atol=2e-2, rtol=2e-2)


@DTYPES
@pytest.mark.parametrize("case", CASES, ids=str)
def test_offers_match_the_twin(case, dtype, poisoned):
    query, key, _ = tensors(case, dtype, "cuda")
    mass, best = antidiagonal_peaks_triton(query, key, scale=0.2, stride=8)
    truth, wanted = antidiagonal_peaks(query, key, scale=0.2, stride=8)
    torch.testing.assert_close(mass, truth, atol=5e-5, rtol=5e-4)
    # A block that is the best but for rounding may lie on either side.
    assert float((best ^ wanted).sum() / wanted.sum()) < 1e-3
