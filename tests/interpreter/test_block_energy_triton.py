"""FlashPrefill's energies against their twin: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.ops.block_energy.torch import block_energies
from method.ops.block_energy.triton import block_energies_triton
from tests.attention_cases import Case, tensors
from tests.conftest import INTERPRETING

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
CASES = [
    Case(1, 1, group=4, dim=64),
    Case(127, 127, group=1, dim=64),
    Case(700, 700, group=2, dim=64, kv_heads=2, batch=2),
    Case(257, 700, group=3, dim=96),
    Case(300, 8500, group=1, dim=128),
]
"""The last one has more key blocks than a step takes."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_energies_match_the_twin(case, dtype, kernel_device, poisoned):
    query, key, _ = tensors(case, dtype, kernel_device)
    energies = block_energies_triton(query, key, scale=0.3)
    truth = block_energies(query.cpu().float(), key.cpu().float(), scale=0.3)
    assert torch.equal(energies.cpu().isfinite(), truth.isfinite())
    # Mean keys are rounded to the key's dtype.
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2 if dtype == torch.bfloat16 else 4e-3
    torch.testing.assert_close(energies.cpu(), truth, atol=tolerance, rtol=tolerance)
