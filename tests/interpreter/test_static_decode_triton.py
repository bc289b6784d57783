"""The decode kernel against plain attention to the keys that exist."""

from __future__ import annotations

import pytest
import torch

from method.ops.dense import dense_decode
from method.ops.static_decode.torch import static_decode_torch
from method.ops.static_decode.triton import CHUNK, static_decode_triton
from tests.conftest import INTERPRETING

pytestmark = pytest.mark.interpreter

TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
LENGTHS = [1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 1100]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kv_heads", "group", "dim"), [(2, 1, 64), (2, 7, 64), (1, 4, 96), (2, 6, 128)]
)
def test_keys_that_do_not_exist_are_not_read(kernel_device, poisoned, dtype, kv_heads, group, dim):
    torch.manual_seed(0)
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    # Of another layout than [B, H, L, D], as a projection leaves it.
    query = torch.randn(1, 1, kv_heads * group, dim).to(kernel_device, dtype).transpose(1, 2)
    key, value = torch.randn(2, 1, kv_heads, 1100, dim).to(kernel_device, dtype)
    for length in LENGTHS:
        keys, values = key[:, :, :length], value[:, :, :length]
        expected = dense_decode(query.float(), keys.float(), values.float(), scale=0.2)
        spoiled = [tensor.clone() for tensor in (key, value)]
        for tensor in spoiled:
            tensor[:, :, length:] = float("nan")
        at = torch.tensor([length], device=kernel_device)
        found = static_decode_triton(query, *spoiled, at, scale=0.2)
        assert found.dtype == dtype and found.shape == query.shape
        torch.testing.assert_close(found.float(), expected, **tolerance)
        plain = static_decode_torch(query, key, value, at, scale=0.2)
        torch.testing.assert_close(plain.float(), expected, **tolerance)
