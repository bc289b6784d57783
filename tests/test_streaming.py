"""The A-shape against a token-level pattern, written down independently."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from method.blocks import num_blocks
from method.streaming import Streaming, a_shape_map
from tests.attention_cases import NO_KEEP, Case, tensors


def blocks_of(tokens: torch.Tensor) -> torch.Tensor:
    """Blocks that hold any pair of a token-level pattern ``[q_len, k_len]``."""
    rows, columns = (num_blocks(size) for size in tokens.shape)
    padded = F.pad(tokens, (0, columns * 128 - tokens.shape[1], 0, rows * 128 - tokens.shape[0]))
    return padded.view(rows, 128, columns, 128).any(3).any(1)


@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (1000, 1000), (1024, 1024), (257, 900), (1, 900)])
@pytest.mark.parametrize(("sink", "window"), [(0, 1), (4, 1), (128, 128), (129, 129), (300, 257)])
def test_blocks_touched_by_the_pattern_are_kept(q_len, k_len, sink, window):
    at = torch.arange(q_len)[:, None] + k_len - q_len
    key = torch.arange(k_len)[None, :]
    pattern = (key <= at) & ((key < sink) | (key > at - window))
    assert torch.equal(a_shape_map(q_len, k_len, sink, window), blocks_of(pattern))


def test_all_heads_share_the_map():
    case = Case(1000, 1000, group=2, kv_heads=2, batch=2)
    query, key, _ = tensors(case)
    mask = Streaming(128, 256).select(query, key, scale=1.0, layer=0, keep=NO_KEEP)
    # Row 5, from query 640 on: the sink, and tokens 640 - 255 = 385 (block 3) to 767 (block 5).
    assert mask.to_map()[1, 3, 5].nonzero().flatten().tolist() == [0, 3, 4, 5]
    assert mask.counts.shape == (2, 4, 8)


def test_the_defaults_by_hand():
    query, key, _ = tensors(Case(8192, 8192))
    counts = Streaming().select(query, key, scale=1.0, layer=0, keep=NO_KEEP).counts[0, 0]
    # Row 40 begins at query 5120: tokens 5120 - 3967 = 1153 (block 9) to 5247 (block 40), and the sink.
    assert int(counts[40]) == 33 and counts[:33].tolist() == [*range(1, 33), 33]


@pytest.mark.parametrize("setting", [{"sink": -1}, {"window": 0}])
def test_bad_settings_are_named(setting):
    with pytest.raises(ValueError, match=r"streaming: sink=.* and window=.* are tokens"):
        Streaming(**setting)
