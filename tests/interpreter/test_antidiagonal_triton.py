"""The antidiagonal kernels against their PyTorch twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.ops.antidiagonal import triton as antidiagonal_triton
from method.ops.antidiagonal.torch import antidiagonal_peaks, antidiagonal_scores
from method.ops.antidiagonal.triton import (
    antidiagonal_peaks_triton,
    antidiagonal_scores_triton,
    causal_tiles,
)
from method.ops.triton_support import Launch
from method.oracle import Oracle
from method.xattention import XAttention
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
CASES = [
    (Case(1, 1, group=4, dim=64), 8),
    (Case(127, 127, group=7, dim=96), 4),
    (Case(128, 128, group=8, dim=128), 16),
    (Case(129, 129, group=1, dim=64, kv_heads=2), 32),
    (Case(1000, 1000, group=2, dim=64, kv_heads=2, batch=2), 8),
    (Case(1000, 1000, group=1, dim=128), 64),
    (Case(257, 700, group=3, dim=64), 16),
    (Case(200, 333, group=2, dim=96), 4),
    (Case(300, 450, group=2, dim=64), 1),
]


@few_of({"case,stride": CASES, "reduction": ["sum", "max"], "dtype": DTYPES})
def test_scores_match_the_twin(case, stride, reduction, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    options = {"scale": 0.2, "stride": stride, "reduction": reduction}
    truth = antidiagonal_scores(query, key, **options)
    scores = antidiagonal_scores_triton(query, key, **options)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, truth, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("case", "stride"),
    [
        (Case(1024, 1024, group=2, dim=64, kv_heads=2, batch=2), 8),
        (Case(251, 704, group=3, dim=96), 16),
        (Case(512, 640, group=1, dim=128), 4),
        (Case(300, 450, group=2, dim=64), 1),
    ],
    ids=str,
)
def test_tensor_descriptors_give_the_same(case, stride, kernel_device, poisoned):
    if not INTERPRETING and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("needs the copy engine of 9.0 and newer")
    query, key, _ = tensors(case, torch.float16, kernel_device)
    options = {"scale": 0.2, "stride": stride}
    truth = antidiagonal_scores(query, key, **options)
    for launch in (Launch(128, 8, 3, tma=True), Launch(256, 8, 4, tma=True)):
        scores = antidiagonal_scores_triton(query, key, launch=launch, **options)
        torch.testing.assert_close(scores, truth, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("case_stride", [CASES[0], CASES[3], CASES[6]], ids=str)
def test_peaks_match_the_twin(case_stride, kernel_device, poisoned):
    case, stride = case_stride
    query, key, _ = tensors(case, torch.float16, kernel_device)
    truth, best = antidiagonal_peaks(query, key, scale=0.2, stride=stride)
    mass, found = antidiagonal_peaks_triton(query, key, scale=0.2, stride=stride)
    torch.testing.assert_close(mass, truth, atol=5e-5, rtol=1e-4)
    assert torch.equal(found, best)


def test_heads_worked_on_in_turns_give_the_same(kernel_device, monkeypatch):
    query, key, _ = tensors(Case(1000, 1000, group=3, kv_heads=2), device=kernel_device)
    whole = antidiagonal_scores_triton(query, key, scale=0.2, stride=16)
    monkeypatch.setattr(antidiagonal_triton, "_CHUNK_SUMS", 63 * 8 * 4)
    assert torch.equal(antidiagonal_scores_triton(query, key, scale=0.2, stride=16), whole)


def test_both_estimators_choose_the_same_blocks(kernel_device):
    query, key, _ = tensors(Case(1000, 1000, group=4), device=kernel_device)
    for kind, setting in ((XAttention, {"tau": 0.8}), (Oracle, {"reduction": "max", "tau": 0.8})):
        masks = [
            kind(estimator=estimator, **setting)
            .select(query, key, scale=0.25, layer=0, keep=NO_KEEP)
            .to_map()
            for estimator in ("torch", "triton")
        ]
        assert torch.equal(*masks)


@pytest.mark.parametrize(
    ("q_strides", "k_strides", "lag"), [(1, 1, 0), (1000, 1000, 0), (2048, 2048, 0), (300, 900, 600)]
)
def test_tiles_cover_the_causal_area_once(q_strides, k_strides, lag):
    tiles = causal_tiles(q_strides, k_strides, lag, 256).tolist()
    seen = {(m, n) for m in range(-(-q_strides // 128)) for n in range(-(-k_strides // 256))}
    last = {m: min(m * 128 + 127, q_strides - 1) + lag for m, _ in seen}
    assert sorted(map(tuple, tiles)) == sorted((m, n) for m, n in seen if n * 256 <= last[m])


def test_unsupported_head_size_says_what_is_supported(kernel_device):
    query, key, _ = tensors(Case(128, 128, dim=80), device=kernel_device)
    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        antidiagonal_scores_triton(query, key, scale=0.2, stride=8)
