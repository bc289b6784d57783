"""TriangleMix against a token-level pattern, written down independently."""

from __future__ import annotations

import pytest
import torch

from method.trianglemix import TriangleMix
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.test_streaming import blocks_of


@pytest.mark.parametrize(("q_len", "k_len"), [(1000, 1000), (1024, 1024), (300, 900), (1, 1)])
@pytest.mark.parametrize("last", [0, 64, 128])
def test_deep_layers_keep_sink_window_and_last_queries(q_len, k_len, last):
    query, key, _ = tensors(Case(q_len, k_len, group=2))
    method = TriangleMix(first_layer=2, sink=8, window=200, last=last)
    kept = method.select(query, key, scale=1.0, layer=2, keep=NO_KEEP).to_map()
    at = torch.arange(q_len)[:, None] + k_len - q_len
    token = torch.arange(k_len)[None, :]
    pattern = (token < 8) | (token > at - 200) | (at >= k_len - last)
    assert torch.equal(kept[0, 1], blocks_of(pattern & (token <= at)))


def test_a_pattern_by_hand():
    query, key, _ = tensors(Case(1024, 1024))
    method = TriangleMix(first_layer=0, sink=8, window=200, last=128)
    kept = method.select(query, key, scale=1.0, layer=0, keep=NO_KEEP).to_map()[0, 0]
    # Row 5 begins at query 640, whose window begins at 441 (block 3). The last row sees everything.
    assert kept[5].nonzero().flatten().tolist() == [0, 3, 4, 5]
    assert kept.sum(-1).tolist() == [1, 2, 3, 4, 4, 4, 4, 8]
    # Two rows hold the last 129 queries.
    more = TriangleMix(first_layer=0, sink=8, window=200, last=129)
    kept = more.select(query, key, scale=1.0, layer=0, keep=NO_KEEP).to_map()[0, 0]
    assert kept.sum(-1).tolist() == [1, 2, 3, 4, 4, 4, 7, 8]


def test_early_layers_are_dense():
    query, key, _ = tensors(Case(1000, 1000))
    method = TriangleMix(first_layer=2, window=128)
    masks = [method.select(query, key, scale=1.0, layer=n, keep=NO_KEEP) for n in range(3)]
    counts = [int(mask.counts.sum()) for mask in masks]
    assert counts[:2] == [36, 36] and counts[2] < 36


@pytest.mark.parametrize("setting", [{"first_layer": -1}, {"sink": -1}, {"window": 0}, {"last": -1}])
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=r"trianglemix: first_layer=.* window=.* at least 1"):
        TriangleMix(**setting)
