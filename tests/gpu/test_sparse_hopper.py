"""The Hopper kernel against the naive reference, with poisoned outputs."""

from __future__ import annotations

import pytest
import torch

from method.blocks import BlockMask
from method.ops.block_sparse.hopper import HopperLaunch, block_sparse_hopper
from method.ops.block_sparse.reference import reference_attention
from tests.attention_cases import CASES, NO_KEEP, Case, random_mask, tensors
from tests.gpu import HOPPER

pytestmark = HOPPER

LAUNCHES = [HopperLaunch(), HopperLaunch(group_heads=True)]
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 2e-2}
LONG = [
    Case(4096, 4096, group=4, dim=128, density=0.2, kv_heads=2),
    Case(4000, 4000, group=7, dim=64, density=0.3, keep=NO_KEEP, batch=2),
    Case(1000, 5003, group=4, dim=128, density=0.3, kv_heads=2),
    Case(3000, 3128, group=8, dim=96, density=0.6),
]


def check(case: Case, dtype: torch.dtype, launch: HopperLaunch, mask: BlockMask | None = None) -> None:
    query, key, value = tensors(case, dtype, "cuda", seed=case.q_len)
    mask = random_mask(case, "cuda", seed=case.k_len) if mask is None else mask
    truth, truth_lse = reference_attention(query, key, value, mask, scale=0.1)
    output, lse = block_sparse_hopper(query, key, value, mask, scale=0.1, with_lse=True, launch=launch)
    torch.testing.assert_close(output, truth, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(lse, truth_lse, atol=1e-3, rtol=1e-3)
    plain, _ = block_sparse_hopper(query, key, value, mask, scale=0.1, launch=launch)
    assert torch.equal(plain, output)


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
@pytest.mark.parametrize("case", [*CASES, *LONG], ids=str)
def test_kernel_matches_the_reference(case, launch, poisoned):
    check(case, torch.bfloat16, launch)


@pytest.mark.parametrize("case", LONG, ids=str)
def test_fp16_matches_the_reference(case, poisoned):
    check(case, torch.float16, HopperLaunch())


@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])
@pytest.mark.parametrize("case", LONG, ids=str)
def test_maxima_that_grow_are_followed(case, scale, poisoned):
    """Sums and outputs are rescaled only when a maximum has grown by 8 powers of two."""
    query, key, value = tensors(case, torch.bfloat16, "cuda", seed=3)
    # Later keys are larger, and lists are walked from their end: both directions occur.
    growth = torch.linspace(0.2, 3.0, case.k_len, device="cuda").to(key.dtype)
    for factors in (growth, growth.flip(0)):
        grown = key * factors[:, None]
        mask = random_mask(case, "cuda", seed=7)
        truth, truth_lse = reference_attention(query, grown, value, mask, scale=scale)
        output, lse = block_sparse_hopper(query, grown, value, mask, scale=scale, with_lse=True)
        torch.testing.assert_close(output, truth, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(lse, truth_lse, atol=1e-3, rtol=1e-3)


def test_a_block_above_the_diagonal_does_not_leak(poisoned):
    query, key, value = tensors(Case(384, 384, group=2), torch.bfloat16, "cuda")
    everything = torch.ones(1, 2, 3, 3, dtype=torch.bool, device="cuda")
    output, _ = block_sparse_hopper(
        query, key, value, BlockMask.from_map(everything, 384, 384), scale=0.1
    )
    causal = BlockMask.causal(1, 2, 384, 384, "cuda")
    truth, _ = reference_attention(query, key, value, causal, scale=0.1)
    torch.testing.assert_close(output, truth, atol=2e-2, rtol=2e-2)


def test_repeated_runs_agree_to_the_bit():
    query, key, value = tensors(LONG[0], torch.bfloat16, "cuda")
    mask = random_mask(LONG[0], "cuda")
    first, _ = block_sparse_hopper(query, key, value, mask, scale=0.1)
    for _ in range(20):
        again, _ = block_sparse_hopper(query, key, value, mask, scale=0.1)
        assert torch.equal(first, again)


def test_unusual_strides_are_copied():
    query, key, value = tensors(Case(300, 300, group=2, dim=128), torch.bfloat16, "cuda")
    mask = BlockMask.causal(1, 2, 300, 300, "cuda")
    wide = torch.zeros(*key.shape[:3], 131, dtype=key.dtype, device="cuda")[..., :128].copy_(key)
    expected, _ = block_sparse_hopper(query, key, value, mask, scale=0.1)
    output, _ = block_sparse_hopper(query, wide, value, mask, scale=0.1)
    assert torch.equal(expected, output)


def test_other_dtypes_are_refused():
    query, key, value = tensors(Case(128, 128), torch.float32, "cuda")
    mask = BlockMask.causal(1, 1, 128, 128, "cuda")
    with pytest.raises(TypeError, match=r"float32 is not supported \(bfloat16, float16\)"):
        block_sparse_hopper(query, key, value, mask, scale=0.1)
