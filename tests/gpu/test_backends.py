"""Back ends for Hopper on random masks: FlashAttention-4's kernel and this project's on the same lists.

Two implementations that share nothing agree with the reference, and so with each other.
"""

from __future__ import annotations

import pytest
import torch

from method.attention import block_sparse_attention
from method.ops.block_sparse import fa4
from method.ops.block_sparse.reference import reference_attention
from tests.attention_cases import NO_KEEP, Case, random_mask, tensors
from tests.gpu import HOPPER

pytestmark = HOPPER

CASES = [
    Case(q_len, k_len, group=group, dim=dim, density=density, **options)
    for group in (1, 4, 7, 8)
    for dim in (64, 128)
    for q_len, k_len, density, options in (
        (1, 1, 1.0, {}),
        (1000, 1000, 0.3, {"batch": 2}),
        (1000, 1000, 0.3, {"keep": NO_KEEP}),  # rows without a block
        (257, 1100, 0.5, {"kv_heads": 2}),
        (2048, 4096, 0.2, {}),
    )
]


@pytest.mark.parametrize("backend", ["fa4", "hopper"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_random_masks_match_the_reference(case, backend, poisoned):
    if backend == "fa4":
        try:
            fa4.package()
        except fa4.MissingFA4 as error:
            pytest.skip(str(error))
    query, key, value = tensors(case, torch.bfloat16, "cuda", seed=case.q_len)
    mask = random_mask(case, "cuda", seed=case.k_len)
    truth, _ = reference_attention(query, key, value, mask, scale=0.1)
    output = block_sparse_attention(query, key, value, mask, scale=0.1, backend=backend)
    torch.testing.assert_close(output, truth, atol=2e-2, rtol=2e-2)
