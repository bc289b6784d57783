from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from method.blocks import BlockMask, causal_map, visible_blocks
from method.keep import KeepPolicy
from method.ops.block_sparse.reference import reference_attention
from tests.attention_cases import CASES, Case, random_mask, tensors

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def bits(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


@pytest.mark.parametrize(
    ("q_len", "k_len", "visible", "forced"),
    [
        (256, 512, ["1110", "1111"], ["1010", "1001"]),
        (257, 384, ["110", "111", "111"], ["110", "101", "101"]),
        (300, 300, ["100", "110", "111"], ["100", "110", "101"]),
    ],
)
def test_causal_and_forced_vectors(q_len, k_len, visible, forced):
    assert torch.equal(causal_map(q_len, k_len), bits(visible))
    assert torch.equal(SINK_DIAGONAL.forced(q_len, k_len), bits(forced))


def test_last_row_policy_keeps_every_visible_block_of_the_last_row_only():
    last = KeepPolicy(sink=False, diagonal=False, last_row=True).forced(257, 384)
    assert torch.equal(last, bits(["000", "000", "111"]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_map_round_trip_is_lossless(case):
    mask = random_mask(case)
    again = BlockMask.from_map(mask.to_map(), case.q_len, case.k_len)
    assert torch.equal(again.to_map(), mask.to_map())
    assert torch.equal(again.counts, mask.counts)


def test_lists_are_ascending_and_hold_exactly_the_kept_blocks():
    mask = random_mask(Case(700, 700, group=3))
    kept = mask.to_map()
    for head in range(3):
        for row in range(mask.rows):
            live = mask.indices[0, head, row, : mask.counts[0, head, row]]
            assert live.tolist() == kept[0, head, row].nonzero().flatten().tolist()


@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (129, 129), (200, 333)])
def test_causal_is_the_full_triangle(q_len, k_len):
    mask = BlockMask.causal(2, 3, q_len, k_len)
    assert torch.equal(mask.to_map(), causal_map(q_len, k_len).expand(2, 3, -1, -1))
    assert torch.equal(mask.counts[0, 0].long(), visible_blocks(q_len, k_len))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees_with_the_reference():
    case = Case(257, 300, group=2, density=0.3)
    query, key, value = tensors(case)
    mask = random_mask(case)
    flex = flex_attention(query, key, value, block_mask=mask.to_flex(), scale=0.1, enable_gqa=True)
    truth, _ = reference_attention(query, key, value, mask, scale=0.1)
    torch.testing.assert_close(flex, truth, atol=1e-5, rtol=1e-5)


def test_bad_lists_are_refused():
    with pytest.raises(ValueError, match="1 <= q_len <= k_len"):
        BlockMask.causal(1, 1, 129, 128)
    mask = BlockMask.causal(1, 1, 256, 256)
    with pytest.raises(TypeError, match="int32"):
        BlockMask(mask.indices.long(), mask.counts, 256, 256)
    with pytest.raises(ValueError, match="2 rows"):
        BlockMask(mask.indices, mask.counts, 128, 256)
    with pytest.raises(ValueError, match="columns"):
        BlockMask.from_map(mask.to_map(), 256, 512)
