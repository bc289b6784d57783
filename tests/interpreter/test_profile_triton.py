"""The profile kernels against their PyTorch twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import json

import pytest
import torch

from method.density import check_causal
from method.flexprefill import FlexPrefill
from method.keep import EQUAL_KEEP
from method.minference import MInference
from method.ops.vertical_slash.profile import attention_profile
from method.ops.vertical_slash.profile_triton import attention_profile_triton
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

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


@few_of({"case": CASES, "last": [64, 128], "dtype": DTYPES})
def test_profiles_match_the_twin(case, last, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    truth = attention_profile(query, key, scale=0.2, last=last)
    profiles = attention_profile_triton(query, key, scale=0.2, last=last)
    for found, wanted in zip(profiles, truth, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
        mass = found.sum(-1)
        torch.testing.assert_close(mass, torch.full_like(mass, min(last, case.q_len)))


KEEPS = [pytest.param(NO_KEEP, id="none"), pytest.param(EQUAL_KEEP, id="equal")]
PATTERNS = [
    {
        "0": ["vertical_and_slash", 31, 101, 1.0],
        "1": ["stream_llm", 100, 300, 1.0],
        "2": ["block_sparse", 8, 1, 1.0],
    }
]


@few_of(
    {
        "kind": ["flex", "flex_aware", "flex_all", "lines", "mixed"],
        "q_len,k_len": [(1408, 1408), (1450, 1450), (300, 1400), (64, 1300)],
        "keep": KEEPS,
    },
    rows=10,
)
def test_both_estimators_choose_the_same_blocks(kind, keep, q_len, k_len, kernel_device, tmp_path):
    query, key, _ = tensors(Case(q_len, k_len, group=2, kv_heads=2), device=kernel_device, seed=3)
    # Heads of different sharpness, so that some are query-aware.
    sharpness = torch.tensor([0.5, 2.0, 40.0, 1.0], device=kernel_device)
    query = query * sharpness.view(1, 4, 1, 1)
    (tmp_path / "patterns.json").write_text(json.dumps(PATTERNS))
    options: dict = {"gamma": 0.6, "min_budget": 256}
    if kind == "flex":
        options["tau_js"] = 0
    if kind == "flex_all":
        options |= {"tau_js": 1, "gamma": 1.0, "max_budget": 300}
    if kind == "lines":
        options = {"vertical_size": 40, "slash_size": 120}
    if kind == "mixed":
        options = {"patterns": str(tmp_path / "patterns.json"), "slash_size": 60}
    method = FlexPrefill if kind.startswith("flex") else MInference
    slow, fast = (
        method(estimator=estimator, **options).select(query, key, scale=0.25, layer=0, keep=keep)
        for estimator in ("torch", "triton")
    )
    check_causal(fast)
    assert torch.equal(slow.to_map(), fast.to_map())
    dense = q_len == k_len and float(fast.counts.sum()) == 4 * 66
    assert kind == "flex_all" or not dense


def test_unsupported_inputs_say_what_is_supported(kernel_device):
    query, key, _ = tensors(Case(128, 128, dim=80), device=kernel_device)
    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        attention_profile_triton(query, key, scale=0.2, last=64)
    query, key, _ = tensors(Case(128, 128), device=kernel_device)
    with pytest.raises(ValueError, match="last=32: the Triton kernel takes 64 or 128 queries"):
        attention_profile_triton(query, key, scale=0.2, last=32)
