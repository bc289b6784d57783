"""The decode kernel against plain attention to the keys that exist, rows of several lengths at once."""

from __future__ import annotations

import pytest
import torch

from method.ops.dense import dense_decode
from method.ops.static_decode import triton
from method.ops.static_decode.torch import static_decode_torch
from method.ops.static_decode.triton import CHUNK, static_decode_triton
from tests.conftest import INTERPRETING

pytestmark = pytest.mark.interpreter

TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
LENGTHS = [1, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 1100]


def inputs(rows, kv_heads, group, dim, capacity, dtype, device):
    torch.manual_seed(0)
    # Of another layout than [B, H, L, D], as a projection leaves it.
    query = torch.randn(rows, 1, kv_heads * group, dim).to(device, dtype).transpose(1, 2)
    key, value = torch.randn(2, rows, kv_heads, capacity, dim).to(device, dtype)
    return query, key, value


def spoiled(tensor, lengths):
    """The same with NaN where no keys are."""
    tensor = tensor.clone()
    for row, length in enumerate(lengths):
        tensor[row, :, length:] = float("nan")
    return tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("kv_heads", "group", "dim"), [(2, 1, 64), (2, 7, 64), (1, 4, 96), (2, 6, 128)]
)
def test_keys_that_do_not_exist_are_not_read(kernel_device, poisoned, dtype, kv_heads, group, dim):
    tolerance = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    query, key, value = inputs(len(LENGTHS), kv_heads, group, dim, 1100, dtype, kernel_device)
    parts = spoiled(key, LENGTHS), spoiled(value, LENGTHS)
    at = torch.tensor(LENGTHS, device=kernel_device)
    found = static_decode_triton(query, *parts, at, scale=0.2)
    assert found.dtype == dtype and found.shape == query.shape
    plain = static_decode_torch(query, *parts, at, scale=0.2)
    for row, length in enumerate(LENGTHS):
        one = [part[row : row + 1, :, :length].float() for part in (query, key, value)]
        expected = dense_decode(*one, scale=0.2)[0]
        torch.testing.assert_close(found[row].float(), expected, **tolerance)
        torch.testing.assert_close(plain[row].float(), expected, **tolerance)


def test_a_row_depends_neither_on_its_companions_nor_on_the_capacity(
    kernel_device, poisoned, monkeypatch
):
    monkeypatch.setattr(triton, "CHUNK", 64)
    capacity = 64 * (triton.MERGED + 2)
    query, key, value = inputs(3, 1, 2, 64, capacity, torch.float32, kernel_device)
    lengths = torch.tensor([capacity - 5, 700, 64], device=kernel_device)
    together = static_decode_triton(query, key, value, lengths, scale=0.2)
    torch.testing.assert_close(together, static_decode_torch(query, key, value, lengths, scale=0.2))
    order = [1, 2, 0]
    moved = static_decode_triton(query[order], key[order], value[order], lengths[order], scale=0.2)
    assert torch.equal(moved, together[order])
    alone = static_decode_triton(
        query[1:2], key[1:2, :, :704], value[1:2, :, :704], lengths[1:2], scale=0.2
    )
    assert torch.equal(alone, together[1:2])


def test_lengths_that_do_not_fit_the_rows_are_refused(kernel_device):
    query, key, value = inputs(2, 1, 1, 64, 64, torch.float32, kernel_device)
    with pytest.raises(ValueError, match="a length per row"):
        static_decode_triton(query, key, value, torch.tensor([3], device=kernel_device), scale=0.2)
