"""The attention kernel against the naive reference: on a GPU, or through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from method.attention import block_sparse_attention
from method.blocks import BlockMask
from method.ops.block_sparse.reference import reference_attention
from method.ops.block_sparse.triton import block_sparse_triton
from method.ops.triton_support import Launch
from tests.attention_cases import CASES, NO_KEEP, Case, random_mask, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

LONG = Case(4096, 4096, group=2, dim=64, density=0.15)
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}
bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]


def check(
    case: Case,
    dtype: torch.dtype,
    device: str,
    mask: BlockMask | None = None,
    launch: Launch | None = None,
) -> None:
    query, key, value = tensors(case, dtype, device)
    mask = random_mask(case, device) if mask is None else mask
    truth, truth_lse = reference_attention(query, key, value, mask, scale=0.1)
    output, lse = block_sparse_triton(query, key, value, mask, scale=0.1, with_lse=True, launch=launch)
    assert output.shape == query.shape and output.dtype == dtype
    torch.testing.assert_close(output, truth, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(lse, truth_lse, atol=1e-4, rtol=1e-4)


@few_of({"case": CASES, "dtype": DTYPES})
def test_kernel_matches_the_reference(case, dtype, kernel_device, poisoned):
    check(case, dtype, kernel_device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tensor_descriptors_give_the_same(case, kernel_device, poisoned):
    if not INTERPRETING and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("needs the copy engine of 9.0 and newer")
    launch = Launch(128, 8, 2, tma=True)
    check(case, torch.float16, kernel_device, launch=launch)


def test_kernel_matches_the_reference_at_4096(kernel_device, poisoned):
    check(LONG, torch.float32, kernel_device)


@pytest.mark.parametrize(
    ("length", "group", "dim"), [(384, 1, 64), (385, 4, 96), (511, 7, 128), (256, 8, 64)]
)
def test_all_true_map_is_dense_attention(length, group, dim, kernel_device, poisoned):
    case = Case(length, length, group, dim)
    mask = BlockMask.causal(1, group, length, length, kernel_device)
    check(case, torch.float32, kernel_device, mask)


def test_rows_that_see_nothing_give_zero_and_minus_infinity(kernel_device, poisoned):
    case = Case(300, 400, group=2, density=0.0, keep=NO_KEEP)
    query, key, value = tensors(case, device=kernel_device)
    kept = torch.zeros(1, 2, 3, 4, dtype=torch.bool, device=kernel_device)
    kept[:, :, 0, 1] = True
    mask = BlockMask.from_map(kept, 300, 400)
    output, lse = block_sparse_triton(query, key, value, mask, scale=0.1, with_lse=True)
    blind = torch.ones(300, dtype=torch.bool)
    # Query 28 sits at key 128, where block 1 begins; row 0 ends at query 127.
    blind[28:128] = False
    assert lse is not None
    assert torch.equal((lse == -torch.inf).cpu()[0, 1], blind)
    assert torch.equal((output == 0).all(-1).cpu()[0, 1], blind)


def test_a_block_above_the_diagonal_does_not_leak(kernel_device):
    query, key, value = tensors(Case(384, 384, group=2), device=kernel_device)
    everything = torch.ones(1, 2, 3, 3, dtype=torch.bool, device=kernel_device)
    output, _ = block_sparse_triton(
        query, key, value, BlockMask.from_map(everything, 384, 384), scale=0.1
    )
    causal = BlockMask.causal(1, 2, 384, 384, kernel_device)
    truth, _ = reference_attention(query, key, value, causal, scale=0.1)
    torch.testing.assert_close(output, truth, atol=5e-6, rtol=1e-4)


def test_heads_with_unit_last_stride_or_not_agree(kernel_device):
    case = Case(200, 200, group=2)
    query, key, value = tensors(case, device=kernel_device)
    mask = random_mask(case, kernel_device)
    plain, _ = block_sparse_triton(query, key, value, mask, scale=0.1)
    turned = key.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert turned.stride(-1) != 1
    again, _ = block_sparse_triton(query, turned, value, mask, scale=0.1)
    assert torch.equal(plain, again)


def test_unsupported_inputs_say_what_is_supported(kernel_device):
    def run(case: Case, dtype: torch.dtype = torch.float32) -> None:
        query, key, value = tensors(case, dtype, kernel_device)
        mask = BlockMask.causal(1, case.heads, case.q_len, case.k_len, kernel_device)
        block_sparse_attention(query, key, value, mask, scale=0.1, backend="triton")

    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        run(Case(128, 128, dim=80))
    with pytest.raises(TypeError, match="float64 is not supported"):
        run(Case(128, 128), torch.float64)
    if INTERPRETING:
        with pytest.raises(TypeError, match="interpreter computes bfloat16 wrongly"):
            run(Case(128, 128), torch.bfloat16)


@pytest.mark.gpu
def test_cpu_tensors_are_refused_by_real_triton():
    query, key, value = tensors(Case(128, 128))
    mask = BlockMask.causal(1, 1, 128, 128)
    with pytest.raises(ValueError, match="need CUDA tensors"):
        block_sparse_attention(query, key, value, mask, scale=0.1, backend="triton")
