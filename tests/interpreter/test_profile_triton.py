"""The profile kernels against their PyTorch twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.flexprefill import FlexPrefill
from method.kernels.profile import attention_profile
from method.kernels.profile_triton import attention_profile_triton
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.conftest import INTERPRETING

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
CASES = [
    Case(1, 1, group=4, dim=64),
    Case(127, 127, group=7, dim=96),
    Case(128, 128, group=8, dim=128),
    Case(1000, 1000, group=2, dim=64, kv_heads=2, batch=2),
    Case(3000, 3000, group=1, dim=128),
    Case(257, 700, group=3, dim=64),
    Case(20, 333, group=2, dim=96),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [64, 128])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_profiles_match_the_twin(case, last, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    truth = attention_profile(query, key, scale=0.2, last=last)
    profiles = attention_profile_triton(query, key, scale=0.2, last=last)
    for found, wanted in zip(profiles, truth, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
        mass = found.sum(-1)
        torch.testing.assert_close(mass, torch.full_like(mass, min(last, case.q_len)))


def test_both_estimators_choose_the_same_blocks(kernel_device):
    query, key, _ = tensors(Case(1400, 1400, group=4), device=kernel_device)
    masks = [
        FlexPrefill(gamma=0.6, min_budget=256, estimator=estimator)
        .select(query, key, scale=0.25, layer=0, keep=NO_KEEP)
        .to_map()
        for estimator in ("torch", "triton")
    ]
    assert torch.equal(*masks)


def test_unsupported_inputs_say_what_is_supported(kernel_device):
    query, key, _ = tensors(Case(128, 128, dim=80), device=kernel_device)
    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        attention_profile_triton(query, key, scale=0.2, last=64)
    query, key, _ = tensors(Case(128, 128), device=kernel_device)
    with pytest.raises(ValueError, match="last=32: the Triton kernel takes 64 or 128 queries"):
        attention_profile_triton(query, key, scale=0.2, last=32)
