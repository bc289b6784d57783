"""FlexPrefill against hand-worked budgets and a slow, separate telling of its rule."""

from __future__ import annotations

import math

import pytest
import torch

from method.flexprefill import FlexPrefill, blocks_for, pool_sums
from method.keep import KeepPolicy
from method.ops.pooled.torch import pooled_map
from method.ops.vertical_slash.profile import attention_profile
from method.ops.vertical_slash.torch import mean_tiles
from tests.attention_cases import NO_KEEP, Case, tensors

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def select(method: FlexPrefill, query, key, keep=NO_KEEP, scale=0.25):
    return method.select(query, key, scale=scale, layer=0, keep=keep).to_map()


def test_budgets_by_hand():
    uniform = torch.full((2048,), 1 / 2048)
    # 1945 tokens hold at most 0.95 of the mass, and one more crosses it: 1946 // 128 + 1 = 16.
    assert int(blocks_for(uniform, 0.95)) == 16
    # 1024 tokens hold exactly half, which still counts as at most: 1025 // 128 + 1 = 9.
    assert int(blocks_for(uniform, 0.5)) == 9
    one = torch.zeros(2048)
    one[300] = 1
    assert int(blocks_for(one, 0.95)) == 1
    # 128 tokens of 1 / 130 and two more: all 130 needed for 0.999, so 130 // 128 + 1 = 2.
    flat = torch.zeros(2048)
    flat[:130] = 1 / 130
    assert blocks_for(torch.stack([flat, one]), 0.999).tolist() == [2, 1]


def test_profiles_are_pooled_from_the_far_end():
    profile = torch.arange(300.0)
    assert pool_sums(profile).tolist() == [
        sum(range(128)),
        sum(range(128, 256)),
        sum(range(256, 300)),
    ]
    means = mean_tiles(torch.arange(130.0).view(1, 1, 130, 1), 128)
    assert means.flatten().tolist() == [63.5, 128.5]


def test_profile_by_hand():
    # Three queries over three keys, weights: [1], [1/2 1/2], [1/3 1/3 1/3].
    zeros = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    by_key, by_distance = attention_profile(zeros, zeros, scale=1.0, last=8)
    assert by_key.flatten().tolist() == pytest.approx([11 / 6, 5 / 6, 2 / 6])
    assert by_distance.flatten().tolist() == pytest.approx([11 / 6, 5 / 6, 2 / 6])
    # The last two only, the far distance seen by one of them.
    by_key, by_distance = attention_profile(zeros, zeros, scale=1.0, last=2)
    assert by_key.flatten().tolist() == pytest.approx([5 / 6, 5 / 6, 2 / 6])
    assert by_distance.flatten().tolist() == pytest.approx([5 / 6, 5 / 6, 2 / 6])


def test_lines_by_hand():
    # The last queries look at key 700 (block 5) and at themselves 256 tokens back.
    length, dim = 2048, 64
    query, key = (torch.zeros(1, 1, length, dim, dtype=torch.float64) for _ in "qk")
    query[..., 0] = 30
    key[:, :, 700, 0] = 30
    method = FlexPrefill(gamma=0.95, tau_js=0, min_budget=256)
    kept = select(method, query, key)[0, 0]
    # Two blocks each: block 0 and block 5; the main diagonal, and the diagonal that the last 128
    # queries reach 700 at: distances 1220 to 1347, block diagonal 9 (1152-1279) or 10.
    _, by_distance = attention_profile(query, key, scale=0.25, last=128)
    pooled = pool_sums(by_distance.flip(-1)).flip(-1)[0, 0]
    assert pooled.topk(2).indices.sort().values.tolist() == [9, 10]
    far = int(pooled.argmax())
    rows, columns = torch.arange(16)[:, None], torch.arange(16)[None, :]
    lines = (columns == 0) | (columns == 5) | (rows == columns) | (rows - columns == far)
    assert torch.equal(kept, lines & (columns <= rows))


def test_forced_lines_use_up_a_budget_of_one_block():
    query, key = (torch.zeros(1, 1, 2048, 64, dtype=torch.float64) for _ in "qk")
    query[..., 0] = 30
    key[:, :, 700, 0] = 30
    kept = select(FlexPrefill(gamma=0.95, tau_js=0, min_budget=None), query, key)[0, 0]
    columns = torch.arange(16)
    assert torch.equal(kept, (columns == 0) | torch.eye(16, dtype=torch.bool))


def test_the_distance_by_hand():
    # All true mass lies in block 5. The mean key there is 30 / 128 long and the others are 0, so the
    # pooled guess gives block 5 a share of a = e^1.758 / (e^1.758 + 15) = 0.279, the others 0.048.
    query, key = (torch.zeros(1, 1, 2048, 64, dtype=torch.float64) for _ in "qk")
    query[..., 0] = 30
    key[:, :, 700, 0] = 30
    a = math.exp(900 / 128 / 4)
    a /= a + 15
    middle = (a + 1) / 2
    # Where there is no true mass, the guess is twice the middle.
    divergence = 0.5 * (a * math.log(a / middle) + (1 - a) * math.log(2) - math.log(middle))
    assert math.sqrt(divergence) == pytest.approx(0.598, abs=1e-3)
    for tau_js, aware in ((0.597, False), (0.599, True)):
        found = FlexPrefill(tau_js=tau_js)._lines(query, key, 0.25, 8, False)[2]
        assert bool(found) == aware


def slow_rule(query, key, scale, gamma, tau_js, least):
    """One head, in plain Python: lists, loops and sets of (row, column)."""
    length = query.shape[0]
    blocks = math.ceil(length / 128)
    weights = []
    for token in range(length - 128, length):
        logits = (key[: token + 1] @ query[token] * scale).tolist()
        top = max(logits)
        mass = [math.exp(logit - top) for logit in logits]
        whole = sum(mass)
        weights.append([part / whole for part in mass])
    vertical, slash = [0.0] * length, [0.0] * length
    for index, row in enumerate(weights):
        for at, weight in enumerate(row):
            vertical[at] += weight / 128
            slash[length - 1 - (length - 128 + index - at)] += weight / 128

    def budget(profile):
        total, tokens = 0.0, 1
        for mass in sorted(profile, reverse=True):
            total += mass
            tokens += total <= gamma
        return max(tokens // 128 + 1, least)

    def pool(profile):
        return [sum(profile[start : start + 128]) for start in range(0, length, 128)]

    counts, pooled = [budget(vertical), budget(slash)], [pool(vertical), pool(slash)]
    centres = torch.stack([key[start : start + 128].mean(0) for start in range(0, length, 128)])
    guess = ((query[-128:].mean(0) @ centres.T) * scale).softmax(0).tolist()
    divergence = 0.0
    for a, b in zip(guess, pooled[0], strict=True):
        divergence += 0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b))
    aware = math.sqrt(divergence) < tau_js
    counts = [least, least] if aware else counts
    pooled[0][0] = pooled[1][blocks - 1] = math.inf
    top = [
        sorted(range(blocks), key=lambda i, p=p: -p[i])[:count]
        for p, count in zip(pooled, counts, strict=True)
    ]
    chosen = {(row, column) for row in range(blocks) for column in top[0] if column <= row}
    chosen |= {(row, row - blocks + 1 + at) for row in range(blocks) for at in top[1]}
    if aware:
        rows = torch.stack([query[start : start + 128].mean(0) for start in range(0, length, 128)])
        entries = []
        for row in range(blocks):
            shares = ((rows[row] @ centres[: row + 1].T) * scale).softmax(0).tolist()
            entries += [(share, row, column) for column, share in enumerate(shares)]
        total = 0.0
        for share, row, column in sorted(entries, key=lambda entry: -entry[0]):
            total += share
            if total <= gamma * blocks:
                chosen.add((row, column))
    return aware, {(row, column) for row, column in chosen if column >= 0}


@pytest.mark.parametrize("length", [1408, 1450])
@pytest.mark.parametrize("tau_js", [0.0, 0.17])
def test_the_rule_told_slowly(length, tau_js):
    query, key, _ = (x.double() for x in tensors(Case(length, length, group=2, kv_heads=2), seed=3))
    # Heads of different sharpness, the last one with a bias towards some keys of all queries.
    query = query * torch.tensor([0.5, 2.0, 40.0, 1.0]).view(1, 4, 1, 1)
    key[:, 1, ::5] += 1.0
    query[:, 3] += 0.4
    kept = select(FlexPrefill(gamma=0.6, tau_js=tau_js, min_budget=256), query, key)
    kinds = []
    for head in range(4):
        aware, chosen = slow_rule(query[0, head], key[0, head // 2], 0.25, 0.6, tau_js, 2)
        kinds.append(aware)
        assert {tuple(cell) for cell in kept[0, head].nonzero().tolist()} == chosen
    assert any(kinds) == (tau_js > 0) and not all(kinds)


def test_entries_of_all_rows_compete_and_the_crossing_one_is_left_out():
    # Row 0 has one entry of 1; row 1 has 3/4 and 1/4: in order 1, 3/4, 1/4.
    rows = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    columns = torch.tensor([[[0.0], [math.log(3)]]], dtype=torch.float64)
    for gamma, wanted in ((0.87, [[1, 0], [0, 0]]), (0.88, [[1, 0], [0, 1]]), (0.49, [[0, 0], [0, 0]])):
        kept = pooled_map(rows, columns, 1.0, gamma, 256, 256)
        assert kept[0].int().tolist() == wanted, gamma


def test_budgets_bound_what_is_kept():
    query, key, _ = tensors(Case(2048, 2048, group=2))
    few = select(FlexPrefill(gamma=0.99, tau_js=0, min_budget=128, max_budget=300), query, key)
    # Three columns and three diagonals at most.
    assert int(few.sum(-1).max()) <= 6
    default = select(FlexPrefill(gamma=0.01, tau_js=0), query, key)
    assert bool((default[:, :, -1].sum(-1) >= 8).all())


@pytest.mark.parametrize("length", [200, 256, 1000, 1024])
def test_short_prompts_are_dense(length):
    query, key, _ = tensors(Case(length, length))
    rows = -(-length // 128)
    assert int(select(FlexPrefill(gamma=0.1), query, key).sum()) == rows * (rows + 1) // 2


def test_a_budget_beyond_the_prompt_is_refused():
    query, key, _ = tensors(Case(2048, 2048, group=2))
    with pytest.raises(
        ValueError, match=r"flexprefill: max_budget=2049 is more than the 2048 .* max_budget=null"
    ):
        select(FlexPrefill(gamma=0.9, max_budget=2049), query, key)
    whole = select(FlexPrefill(gamma=0.9, max_budget=2048), query, key)
    assert torch.equal(whole, select(FlexPrefill(gamma=0.9), query, key))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gamma": 0.0}, r"gamma=0.0 is not in \(0, 1\]"),
        ({"gamma": 1.2}, r"gamma=1.2 is not in \(0, 1\]"),
        ({"tau_js": -0.1}, "tau_js=-0.1 is negative"),
        ({"min_budget": 0}, "min_budget=0 is not a number of tokens"),
        ({"max_budget": 512}, "max_budget=512 is below min_budget=1024"),
        ({"estimator": "cuda"}, "estimator='cuda' is not one of auto, torch, triton"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"flexprefill: {message}"):
        FlexPrefill(**setting)
