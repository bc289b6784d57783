from __future__ import annotations

import itertools

import pytest
import torch

from method.blocks import causal_map, num_blocks, visible_blocks
from method.keep import RR_KEEP, KeepPolicy
from method.ops.top_p.torch import SELECTORS, select_blocks
from method.ops.top_p.triton import widths
from tests.attention_cases import NO_KEEP

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def random_scores(seed: int, q_len: int, k_len: int, heads: int = 4, power: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    visible = causal_map(q_len, k_len)
    return torch.rand(1, heads, *visible.shape, generator=generator) ** power * visible


def one_row(values: list[float], selector: str, tau: float, keep: KeepPolicy) -> list[int]:
    """Columns kept in the last row of a square map whose last row has these scores."""
    length = 128 * len(values)
    scores = torch.zeros(1, 1, len(values), len(values))
    scores[0, 0, -1] = torch.tensor(values)
    chosen = select_blocks(scores, length, length, tau=tau, selector=selector, keep=keep)
    return chosen[0, 0, -1].nonzero().flatten().tolist()


def test_rules_by_hand():
    row = [1.0, 5.0, 2.0, 1.0, 1.0]
    # top_p: 5, then 2 reaches 0.7 of 10; sink and diagonal are added.
    assert one_row(row, "top_p", 0.7, NO_KEEP) == [1, 2]
    assert one_row(row, "top_p", 0.7, SINK_DIAGONAL) == [0, 1, 2, 4]
    # forced_first: sink and diagonal pay 2, then 5 makes 7.
    assert one_row(row, "forced_first", 0.7, SINK_DIAGONAL) == [0, 1, 4]
    # The block that crosses the threshold is kept; one that starts at it is not.
    assert one_row(row, "forced_first", 0.71, SINK_DIAGONAL) == [0, 1, 2, 4]
    assert one_row(row, "forced_first", 0.7, NO_KEEP) == one_row(row, "top_p", 0.7, NO_KEEP)
    # released: the diagonal pays 1, 5 and 2 make 8, and one block more; the sink comes by itself.
    assert one_row(row, "released", 0.7, SINK_DIAGONAL) == [0, 1, 2, 4]
    assert one_row([1.0, 5.0, 2.0, 1.5, 1.0], "released", 0.7, SINK_DIAGONAL) == [0, 1, 2, 3, 4]
    assert one_row(row, "released", 0.7, NO_KEEP) == [0, 1, 2]


def test_the_rules_differ_as_the_public_code_showed():
    row = [0.4, 0.3, 0.2, 0.1]
    assert one_row(row, "released", 0.75, SINK_DIAGONAL) == [0, 1, 2, 3]
    assert one_row(row, "forced_first", 0.75, SINK_DIAGONAL) == [0, 1, 3]
    assert one_row(row, "top_p", 0.75, SINK_DIAGONAL) == [0, 1, 2, 3]


def released_list(row: list[float], tau: float) -> set[int]:
    """The released code's list, place by place, for a last row without equal scores.

    The diagonal holds the first place, the others follow by score. Two places are free, then the
    sums begin with the diagonal's score alone; a place that is not taken counts as column 0.
    """
    diagonal = len(row) - 1
    order = [diagonal, *sorted(range(diagonal), key=lambda column: -row[column])]
    before = [0.0, 0.0]
    before += itertools.accumulate((row[column] for column in order[1:-2]), initial=row[diagonal])
    need = tau * sum(row)
    return {
        column if sum_before < need else 0 for column, sum_before in zip(order, before, strict=False)
    }


@pytest.mark.parametrize("tau", [1e-6, 0.3, 0.75, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("blocks", [3, 4, 9, 40])
def test_released_is_the_list_of_the_public_code(tau, blocks):
    for seed in range(20):
        drawn = torch.rand(blocks, generator=torch.Generator().manual_seed(seed)) ** 3
        row = drawn.double().tolist()
        assert set(one_row(row, "released", tau, SINK_DIAGONAL)) == released_list(row, tau)


@pytest.mark.parametrize("lengths", [(2048, 2048), (1000, 1000), (257, 1400)])
def test_released_keeps_one_block_beyond_the_diagonals_share(lengths):
    scores = random_scores(2, *lengths)
    diagonal_only = KeepPolicy(sink=False, diagonal=True, last_row=False)
    visible = visible_blocks(*lengths)
    for tau in (0.3, 0.9):
        described, kept = (
            select_blocks(scores, *lengths, tau=tau, selector=name, keep=diagonal_only).sum(-1)
            for name in ("forced_first", "released")
        )
        assert torch.equal(kept, torch.minimum(described + 1, visible))


@pytest.mark.parametrize("lengths", [(2048, 2048), (1000, 1000), (257, 1400)])
@pytest.mark.parametrize("first", [1, 5, 100])
def test_only_the_first_rows_follow_the_released_rule(lengths, first):
    scores = random_scores(4, *lengths)
    mixed, described, whole = (
        select_blocks(scores, *lengths, tau=0.9, selector=name, keep=SINK_DIAGONAL, released_rows=rows)
        for name, rows in (("released", first), ("forced_first", first), ("released", None))
    )
    early = visible_blocks(*lengths) <= first
    assert torch.equal(mixed[:, :, early], whole[:, :, early])
    assert torch.equal(mixed[:, :, ~early], described[:, :, ~early])


@pytest.mark.parametrize(("selector", "kept"), [("released", 3), ("forced_first", 2), ("top_p", 2)])
def test_ties_go_to_the_earlier_block(selector, kept):
    assert one_row([1.0, 1.0, 1.0, 1.0], selector, 0.5, NO_KEEP) == [0, 1, 2][:kept]


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_row_without_mass_keeps_only_forced_blocks(selector):
    assert one_row([0.0] * 4, selector, 0.95, SINK_DIAGONAL) == [0, 3]
    assert one_row([0.0] * 4, selector, 0.95, NO_KEEP) == []


@pytest.mark.parametrize("keep", [SINK_DIAGONAL, RR_KEEP, NO_KEEP])
@pytest.mark.parametrize("tau", [1e-6, 0.3, 0.9, 0.99, 0.999])
def test_top_p_keeps_a_superset_of_forced_first(tau, keep):
    for seed, (q_len, k_len) in enumerate([(2048, 2048), (1000, 1000), (257, 1400)]):
        scores = random_scores(seed, q_len, k_len, power=1 + 4 * seed)
        old = select_blocks(scores, q_len, k_len, tau=tau, selector="forced_first", keep=keep)
        new = select_blocks(scores, q_len, k_len, tau=tau, selector="top_p", keep=keep)
        assert not bool((old & ~new).any())


@pytest.mark.parametrize("selector", ["forced_first", "top_p"])
def test_kept_mass_reaches_tau_and_not_by_more_than_one_block(selector):
    scores = random_scores(7, 2048, 2048).double()
    chosen = select_blocks(scores, 2048, 2048, tau=0.8, selector=selector, keep=NO_KEEP)
    total, kept = scores.sum(-1), (scores * chosen).sum(-1)
    assert bool((kept >= 0.8 * total - 1e-12).all())
    least = scores.masked_fill(~chosen, torch.inf).amin(-1)
    assert bool((kept - least < 0.8 * total).all())


def test_heads_are_selected_alike_however_they_are_split(monkeypatch):
    scores = random_scores(3, 1000, 1000, heads=6)
    options = {"tau": 0.9, "selector": "released", "keep": RR_KEEP, "released_rows": 5}
    whole = select_blocks(scores, 1000, 1000, **options)
    monkeypatch.setattr("method.ops.top_p.torch._CHUNK_SCORES", 1)
    split = select_blocks(scores, 1000, 1000, **options)
    assert torch.equal(whole, split)


@pytest.mark.parametrize("selector", SELECTORS)
def test_tau_one_keeps_every_visible_block_even_without_mass(selector):
    chosen = select_blocks(torch.zeros(1, 1, 3, 4), 300, 400, tau=1.0, selector=selector, keep=NO_KEEP)
    assert torch.equal(chosen[0, 0], causal_map(300, 400))


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_head_may_have_its_own_tau(selector):
    scores = random_scores(5, 1000, 1000, heads=3).repeat(2, 1, 1, 1)
    taus = [0.3, 0.95, 1.0]
    together = select_blocks(scores, 1000, 1000, tau=taus, selector=selector, keep=SINK_DIAGONAL)
    for head, tau in enumerate(taus):
        alone = select_blocks(scores, 1000, 1000, tau=tau, selector=selector, keep=SINK_DIAGONAL)
        assert torch.equal(together[:, head], alone[:, head])
    with pytest.raises(ValueError, match="one for each of 3 heads"):
        select_blocks(scores, 1000, 1000, tau=[0.5, 0.6], selector=selector, keep=SINK_DIAGONAL)


def test_bad_settings_are_refused():
    scores = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="selector='v3' is not one of released, forced_first, top_p"):
        select_blocks(scores, 256, 256, tau=0.9, selector="v3", keep=NO_KEEP)
    with pytest.raises(ValueError, match="tau=0"):
        select_blocks(scores, 256, 256, tau=0.0, selector="forced_first", keep=NO_KEEP)
    with pytest.raises(ValueError, match=r"\(3, 3\) rows and columns"):
        select_blocks(scores, 384, 384, tau=0.9, selector="forced_first", keep=NO_KEEP)


@pytest.mark.parametrize("q_len", [1, 128, 1000, 40_000, 131_072, 300_000])
@pytest.mark.parametrize("earlier", [0, 1, 128, 5_000, 100_000])
def test_launches_cover_every_row_once_and_none_is_too_narrow(q_len, earlier):
    k_len = q_len + earlier
    rows = num_blocks(q_len)
    parts = widths(rows, num_blocks(k_len), earlier)
    assert sorted(row for _, first, end in parts for row in range(first, end)) == list(range(rows))
    visible = visible_blocks(q_len, k_len)
    assert all(int(visible[end - 1]) <= width for width, _, end in parts)
    assert len(parts) < 12
