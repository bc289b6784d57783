"""FlashAttention-4 behind the executor: what can be tested without it and without a GPU."""

from __future__ import annotations

import sys

import pytest
import torch

from method.attention import backend_for, block_sparse_attention
from method.blocks import BLOCK, BlockMask
from method.ops.block_sparse import fa4
from method.ops.block_sparse.fa4 import MissingFA4, split_lists
from tests.attention_cases import CASES, Case, random_mask, tensors

SHAPES = [
    *CASES,
    Case(640, 640, group=2, density=0.5),
    Case(300, 1001, group=2, density=0.7, batch=2),
    Case(513, 1151, group=1, density=0.9),  # the diagonal enters rows at their second token
]


def naive(mask: BlockMask, item: int, head: int, row: int) -> tuple[list[int], list[int]]:
    """Crossed and whole blocks of a row, pair of tokens by pair of tokens."""
    crossed, whole = [], []
    for block in mask.indices[item, head, row, : mask.counts[item, head, row]].tolist():
        shift = mask.k_len - mask.q_len
        queries = range(row * BLOCK, min((row + 1) * BLOCK, mask.q_len))
        keys = range(block * BLOCK, (block + 1) * BLOCK)
        seen = {key <= query + shift and key < mask.k_len for query in queries for key in keys}
        if seen == {True}:
            whole.append(block)
        elif True in seen:
            crossed.append(block)
    return crossed, whole


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_lists_are_split_where_the_diagonal_enters(case):
    mask = random_mask(case, seed=case.q_len)
    crossed_counts, crossed, whole_counts, whole = split_lists(mask)
    assert {one.dtype for one in (crossed_counts, crossed, whole_counts, whole)} == {torch.int32}
    for item, head in ((0, 0), (case.batch - 1, case.heads - 1)):
        for row in range(mask.rows):
            at = item, head, row
            found = crossed[at][: crossed_counts[at]].tolist(), whole[at][: whole_counts[at]].tolist()
            assert found == naive(mask, *at)


def test_blocks_above_the_diagonal_are_in_neither_list():
    everything = BlockMask.from_map(torch.ones(1, 1, 3, 5, dtype=torch.bool), 384, 640)
    crossed_counts, crossed, whole_counts, _ = split_lists(everything)
    assert crossed_counts.tolist() == [[[1, 1, 1]]] and whole_counts.tolist() == [[[2, 3, 4]]]
    assert crossed[..., 0].tolist() == [[[2, 3, 4]]]


def test_it_is_never_chosen_and_its_absence_names_the_extra(monkeypatch):
    for capability in ("9.0", "10.0"):
        assert backend_for("auto", "cuda", capability, "bfloat16") != "fa4"
    assert backend_for("fa4", "cuda", "9.0", "bfloat16") == "fa4"
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", None)
    fa4.package.cache_clear()
    with pytest.raises(MissingFA4, match=r"pip install 'rr-bench\[fa4\]'"):
        fa4.package()


def test_other_devices_are_refused():
    query, key, value = tensors(Case(128, 128))
    mask = BlockMask.causal(1, 1, 128, 128)
    with pytest.raises(ValueError, match=r"backend=fa4 needs a GPU of compute capability 9\.0"):
        block_sparse_attention(query, key, value, mask, scale=0.1, backend="fa4")
