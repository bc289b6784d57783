"""The rule itself: values worked out by hand from the paper's definition."""

from __future__ import annotations

import pytest
import torch

from method.blocks import BlockMask
from method.keep import RR_KEEP, KeepPolicy
from method.ops.rr_scores.torch import block_scores, pool_keys, sample_starts
from method.ops.top_p.torch import SELECTORS
from method.rr import RRAttention, stride_means
from tests.attention_cases import Case, tensors

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def select(method: RRAttention, query, key, keep=RR_KEEP, scale=0.25) -> BlockMask:
    return method.select(query, key, scale=scale, layer=0, keep=keep)


def zeros(length: int = 2048, heads: int = 1) -> torch.Tensor:
    return torch.zeros(1, heads, length, 16, dtype=torch.float64)


def test_uniform_scores():
    scores = block_scores(zeros(), zeros(), scale=0.25, stride=8)[0, 0]
    assert scores[0, 0] == pytest.approx(16)
    assert scores[1, :2].tolist() == pytest.approx([10.8443, 5.1557], abs=1e-4)
    assert scores[2, :3].tolist() == pytest.approx([6.4048, 6.4048, 3.1903], abs=1e-4)
    assert scores[3, :4].tolist() == pytest.approx([4.5615] * 3 + [2.3155], abs=1e-4)
    assert scores.sum(-1).tolist() == pytest.approx([16.0] * 16)
    assert not bool(scores.triu(1).any())


@pytest.mark.parametrize(
    ("selector", "tau", "keep", "blocks"),
    [
        ("forced_first", 0.9, SINK_DIAGONAL, 130),
        ("released", 0.9, SINK_DIAGONAL, 136),
        ("top_p", 0.9, SINK_DIAGONAL, 135),
        ("forced_first", 0.95, SINK_DIAGONAL, 136),
        ("released", 0.95, SINK_DIAGONAL, 136),
        ("top_p", 0.95, SINK_DIAGONAL, 136),
        ("forced_first", 0.9, RR_KEEP, 131),
        ("top_p", 0.9, RR_KEEP, 136),
    ],
)
def test_uniform_selection(selector, tau, keep, blocks):
    mask = select(RRAttention(tau=tau, selector=selector), zeros(), zeros(), keep)
    assert int(mask.counts.sum()) == blocks


def test_uniform_selection_row_by_row():
    described = RRAttention(tau=0.9, selector="forced_first")
    mask = select(described, zeros(), zeros(), SINK_DIAGONAL)
    assert mask.counts[0, 0].tolist() == [*range(1, 11), 10, 11, 12, 13, 14, 15]
    # At this share every row but the last ones would be full anyway: ask for less.
    counts = [
        select(RRAttention(tau=0.5, selector=selector), zeros(), zeros(), SINK_DIAGONAL).counts[0, 0]
        for selector in ("released", "forced_first")
    ]
    assert (counts[0] - counts[1]).tolist() == [0, 0, *[1] * 14]


@pytest.mark.parametrize("sampled", range(8))
def test_heads_take_turns_over_the_stride(sampled):
    query, key = zeros(heads=16), zeros()
    query[:, :, torch.arange(2048) % 8 == sampled, 0] = 40
    key[:, :, 389, 0] = 40
    scores = block_scores(query, key, scale=0.25, stride=8)[0, :, 10, 3]
    for head in range(16):
        assert float(scores[head]) == pytest.approx(16 if head % 8 == sampled else 1.52, abs=0.01)
    reversed_heads = block_scores(query, key, scale=0.25, stride=8, offset="reversed")[0, :, 10, 3]
    assert torch.equal(reversed_heads[:8], scores[:8].flip(0))


def test_released_and_top_p_are_supersets_of_forced_first_end_to_end():
    query, key, _ = tensors(Case(2048, 2048, group=4))
    for tau in (0.3, 0.6, 0.8):
        masks = {
            name: select(RRAttention(tau=tau, selector=name), query, key).to_map() for name in SELECTORS
        }
        for name in ("released", "top_p"):
            assert not bool((masks["forced_first"] & ~masks[name]).any())
        assert int(masks["released"].sum()) > int(masks["forced_first"].sum())


@pytest.mark.parametrize("length", [1000, 2048])
def test_chunk_rows_do_not_change_the_scores(length):
    query, key, _ = (x.double() for x in tensors(Case(length, length, group=4)))
    whole = block_scores(query, key, scale=0.25, stride=8, chunk_rows=64)
    for rows in (1, 3):
        part = block_scores(query, key, scale=0.25, stride=8, chunk_rows=rows)
        torch.testing.assert_close(part, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("stride", "offset"),
    [(8, "head"), (16, "reversed"), (8, "random"), (8, "head_layer"), (8, 5), (16, "mean")],
)
def test_chunked_prefill_chooses_the_same_blocks(stride, offset):
    query, key, _ = (x.double() for x in tensors(Case(1000, 1000, group=4)))
    method = RRAttention(tau=0.7, stride=stride, offset=offset)
    whole = select(method, query, key, SINK_DIAGONAL).to_map()
    rows = []
    for start, end in ((0, 384), (384, 640), (640, 1000)):
        part = select(method, query[:, :, start:end], key[:, :, :end], SINK_DIAGONAL).to_map()
        rows.append(torch.nn.functional.pad(part, (0, whole.shape[-1] - part.shape[-1])))
    assert torch.equal(torch.cat(rows, dim=2), whole)


def test_sampling_controls_by_hand():
    def starts(offset, layer=0):
        return sample_starts(6, 4, 0, offset, layer=layer).tolist()

    assert starts(3) == [3] * 6
    assert starts("head_layer", layer=2) == [2, 3, 0, 1, 2, 3]
    drawn = [starts("random", layer) for layer in range(40)]
    assert drawn[0] == starts("random") and drawn[0] != drawn[1]
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=4)
    # 240 draws out of 4: 60 each, with a standard deviation of 6.7.
    assert counts.sum() == 240 and bool((counts - 60).abs().max() < 25)
    with pytest.raises(ValueError, match=r"offset=4 is not one of .* a number from 0 to 3"):
        starts(4)


def test_the_layer_reaches_the_estimate():
    query, key, _ = (x.double() for x in tensors(Case(512, 512, group=4)))
    scores = [
        RRAttention(offset="head_layer").scores(query, key, scale=0.25, layer=layer)
        for layer in (0, 1, 8)
    ]
    assert torch.equal(scores[0], scores[2]) and not torch.allclose(scores[0], scores[1])
    assert torch.equal(scores[0], RRAttention().scores(query, key, scale=0.25, layer=1))


def test_mean_queries_by_hand():
    query = torch.arange(7.0).view(1, 1, 7, 1)
    assert stride_means(query, 4, 0).flatten().tolist() == [1.5] * 4 + [5.0] * 3
    # The first query sits at position 6: strides begin at 8 and 12.
    assert stride_means(query, 4, 6).flatten().tolist() == [0.5] * 2 + [3.5] * 4 + [6.0]


@pytest.mark.parametrize("shift", [0, 3, 128, 133])
def test_samples_sit_at_absolute_positions(shift):
    starts = sample_starts(6, 4, shift, "head").tolist()
    assert [(start + shift) % 4 for start in starts] == [0, 1, 2, 3, 0, 1]
    assert all(0 <= start < 4 for start in starts)


def test_unaligned_shift_keeps_full_rows():
    query, key, _ = (x.double() for x in tensors(Case(256, 389, group=5)))
    scores = block_scores(query, key, scale=0.25, stride=8)
    torch.testing.assert_close(scores.sum(-1), torch.full((1, 5, 2), 16.0, dtype=torch.float64))


def test_adding_a_constant_vector_to_all_keys_changes_nothing():
    query, key, _ = (x.double() for x in tensors(Case(1024, 1024, group=8)))
    moved = key + torch.linspace(-30, 30, 64, dtype=torch.float64)
    method = RRAttention(tau=0.8)
    assert torch.equal(select(method, query, moved).to_map(), select(method, query, key).to_map())


def test_vanishing_tau_leaves_the_always_kept_blocks():
    query, key, _ = (x.double() for x in tensors(Case(2048, 2048, group=4)))
    old = select(RRAttention(tau=1e-9, selector="forced_first"), query, key)
    assert old.counts.sum(-1).tolist() == [[1 + 2 * 14 + 16] * 4]
    scores = block_scores(query, key, scale=0.25, stride=8)
    below = torch.ones(16, 16, dtype=torch.bool).tril(-1)
    for selector, ranked in (("top_p", scores), ("released", scores.masked_fill(~below, -1))):
        new = select(RRAttention(tau=1e-9, selector=selector), query, key).to_map()
        expected = RR_KEEP.forced(2048, 2048).expand(1, 4, -1, -1).clone()
        expected.scatter_(-1, ranked.argmax(-1)[..., None], True)
        assert torch.equal(new, expected)


def test_a_sample_past_the_end_contributes_nothing():
    query, key, _ = tensors(Case(1027, 1027, group=8))
    mass = block_scores(query, key, scale=0.25, stride=8)[0, :, -1].sum(-1)
    assert mass.tolist() == pytest.approx([1.0, 1.0, 1.0, 0, 0, 0, 0, 0])
    mask = select(RRAttention(), query, key, SINK_DIAGONAL)
    assert mask.to_map()[0, 7, -1].nonzero().flatten().tolist() == [0, 8]


def test_key_means_are_accumulated_in_fp32():
    key = torch.tensor([256.0, 1, 1, 1, 1, 1, 1, 1], dtype=torch.bfloat16).view(1, 1, 8, 1)
    # bf16 has 8 bits: 256 + 1 would round back to 256 at every addition; 263 rounds to 264 once.
    assert float(pool_keys(key, 8)) * 8 == 264
    ragged = pool_keys(torch.ones(1, 1, 10, 4), 8)
    assert ragged[0, 0, :, 0].tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tau": 0.0}, r"tau=0.0 is not in \(0, 1\]"),
        ({"tau": 1.5}, r"tau=1.5 is not in \(0, 1\]"),
        ({"stride": 12}, "stride=12 is not one of 4, 8, 16, 32, 64"),
        ({"selector": "v2"}, "selector='v2' is not one of released, forced_first, top_p"),
        ({"offset": "h"}, "offset='h' is not one of head, reversed"),
        ({"offset": 8}, "offset=8 is not one of head, reversed"),
        ({"estimator": "cuda"}, "estimator='cuda' is not one of auto, torch, triton"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        RRAttention(**setting)
