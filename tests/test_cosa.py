"""CoSA's first stage against what the released code gives, and by hand."""

from __future__ import annotations

import pytest
import torch

from method.blocks import causal_map
from method.cosa import CoSA, ranking
from method.ops.antidiagonal.torch import antidiagonal_peaks
from tests.attention_cases import Case, tensors
from tests.rivals import SCALE, lists, waves, zeros


def in_order(query: torch.Tensor, key: torch.Tensor, topp: float, head: int) -> str:
    """Kept blocks of a head in the order they are taken."""
    q_len, k_len = query.shape[2], key.shape[2]
    mass, best = antidiagonal_peaks(query, key, scale=SCALE, stride=8)
    order = ranking(mass, best, CoSA.paper_keep.columns(q_len, k_len), causal_map(q_len, k_len))
    kept = CoSA(topp=topp).select(query, key, scale=SCALE, layer=0, keep=CoSA.paper_keep).to_map()
    return "|".join(
        "".join(str(c) for c in row.tolist() if kept[0, head, number, c])
        for number, row in enumerate(order[0, head])
    )


def test_offers_of_the_released_code():
    mass, _ = antidiagonal_peaks(*waves(), scale=SCALE, stride=8)
    rows = {
        (0, 5): [13.3601, 1.4916, 7.3787, 15.9981, 9.7493, 0.8894],
        (0, 7): [9.1410, 15.9884, 7.6005, 1.2024, 13.0323, 15.9840, 4.2464, 0.6452],
        (1, 5): [15.9866, 9.1990, 3.4858, 13.1022, 15.5880, 6.7704],
        (1, 7): [4.0114, 15.6087, 14.1839, 2.7752, 6.8246, 15.9630, 11.4530, 1.7581],
    }
    for (head, row), wanted in rows.items():
        assert mass[0, head, row, : len(wanted)].tolist() == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(
    ("topp", "head", "wanted"),
    [
        (0.5, 0, "0|01|02|301|043|053|0641|0715"),
        (0.5, 1, "0|10|20|302|043|054|0615|0751"),
        (0.95, 0, "0|01|021|3012|04321|05342|064135|0715426"),
        (0.95, 1, "0|10|201|3021|0432|054312|061542|0751264"),
    ],
)
def test_blocks_and_their_order_in_the_released_code(topp, head, wanted):
    assert in_order(*waves(), topp, head) == wanted


def test_a_ragged_prompt():
    query, key = (x[:, :, :1000] for x in waves())
    mass, _ = antidiagonal_peaks(query, key, scale=SCALE, stride=8)
    wanted = [8.1026, 12.9905, 5.5121, 1.0640, 11.2244, 12.9847, 2.9804, 0.4736]
    assert mass[0, 0, 7].tolist() == pytest.approx(wanted, abs=2e-4)
    assert in_order(query, key, 0.5, 0).endswith("|0715")


def test_equal_logits_offer_all_there_is():
    mass, best = antidiagonal_peaks(*zeros(), scale=SCALE, stride=8)
    seen = causal_map(1024, 1024)
    assert torch.equal(mass[0, 0], 16.0 * seen) and torch.equal(best[0, 1], seen)


@pytest.mark.parametrize(
    "case", [Case(300, 300, group=2, kv_heads=2), Case(200, 333, group=3)], ids=str
)
def test_offers_by_definition(case):
    query, key, _ = (x.double() for x in tensors(case))
    mass, best = antidiagonal_peaks(query, key, scale=0.3, stride=4)
    lag = (case.k_len - case.q_len + 3) // 4
    for head in range(case.heads):
        for row in range(mass.shape[2]):
            total, found = torch.zeros(mass.shape[3]), torch.zeros(mass.shape[3], dtype=torch.bool)
            for i in range(row * 32, min(row * 32 + 32, -(-case.q_len // 4))):
                cells = [
                    cell(query[0, head], key[0, head // case.group], i, j) for j in range(i + lag + 1)
                ]
                logits = torch.tensor(cells[: -(-case.k_len // 4)]) * 0.3 / 4
                offers = (logits - logits.max()).exp()
                for block, part in enumerate(offers.split(32)):
                    total[block] += part.max()
                    found[block] |= part.max() >= 0.999
            torch.testing.assert_close(mass[0, head, row].float(), total, atol=1e-5, rtol=1e-5)
            assert torch.equal(best[0, head, row], found)


def cell(query: torch.Tensor, key: torch.Tensor, i: int, j: int) -> float:
    """Sum along the antidiagonal of one cell of 4 x 4 tokens; tokens that are missing count as 0."""
    return sum(
        float(query[4 * i + 3 - s] @ key[4 * j + s])
        for s in range(4)
        if 4 * i + 3 - s < len(query) and 4 * j + s < len(key)
    )


def test_a_block_is_kept_while_those_before_it_hold_less_than_the_share():
    # One row of four blocks: offers 16, 8, 4 and 2; block 2 holds a stride's best.
    mass = torch.tensor([[16.0, 8.0, 4.0, 2.0]])
    best = torch.tensor([[False, False, True, False]])
    first = torch.tensor([[False, False, False, True]])
    order = ranking(mass, best, first, torch.ones(1, 4, dtype=torch.bool))
    assert order.tolist() == [[3, 2, 0, 1]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"topp": 0}, r"topp=0 is not in \(0, 1\]"),
        ({"stride": 5}, "stride=5 is not one of 4, 8"),
        ({"estimator": "x"}, "estimator='x' is not one of auto, torch, triton"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"cosa: {message}"):
        CoSA(**setting)


def test_lists_of_the_default_are_ascending_masks():
    mask = CoSA(topp=0.5).select(*waves(), scale=SCALE, layer=0, keep=CoSA.paper_keep)
    assert lists(mask) == "0|01|02|013|034|035|0146|0157"
