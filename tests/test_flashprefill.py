"""FlashPrefill against what its authors' code gives, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from method.flashprefill import FlashPrefill
from method.keep import NO_KEEP
from method.ops.block_energy.torch import block_energies, energies_of_means
from method.ops.vertical_slash.torch import mean_tiles
from tests.attention_cases import Case, tensors
from tests.rivals import SCALE, lists, waves, zeros


def rule(**settings) -> FlashPrefill:
    return FlashPrefill(**{"alpha": 0.18, "sink": 1, "window": 1, "last_rows": 0} | settings)


def choose(method: FlashPrefill, query: torch.Tensor, key: torch.Tensor):
    return method.select(query, key, scale=SCALE, layer=0, keep=NO_KEEP)


def test_scores_of_the_authors_code():
    query, key = waves()
    scores = block_energies(query, key, scale=SCALE).softmax(-1)[0]
    head, row = [0.0758, 0.3612, 0.0614, 0.0164, 0.1328, 0.3175, 0.0347, 0.0001], scores[0, 5]
    assert scores[0, 7].tolist() == pytest.approx(head, abs=6e-5)
    assert row[:6].tolist() == pytest.approx([0.2139, 0.0284, 0.0926, 0.5382, 0.1267, 0.0003], abs=6e-5)
    other = [0.0383, 0.2739, 0.1675, 0.0289, 0.0605, 0.3193, 0.1114, 0.0003]
    assert scores[1, 7].tolist() == pytest.approx(other, abs=6e-5)


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        (
            {},
            ["0|01|012|0123|0234|0345|013456|01457", "0|01|012|0123|0234|01345|01456|0124567"],
        ),
        (
            {"alpha": 0.5, "sink": 0, "window": 0},
            ["0|0|1|12|23|3|014|15", "0|0|1|2|3|034|15|125"],
        ),
        ({"sink": 0, "window": 0, "min_budget": 3}, ["0|01|012|012|023|034|01345|0145"]),
    ],
    ids=["sink and window", "threshold alone", "smallest budget"],
)
def test_blocks_of_the_authors_code(settings, heads):
    mask = choose(rule(**settings), *waves())
    for head, wanted in enumerate(heads):
        assert lists(mask, head) == wanted


def test_padded_rows_of_the_authors_code_are_the_only_difference_of_a_ragged_prompt():
    query, key = (x[:, :, :1000] for x in waves())
    means = mean_tiles(key, 128)
    padded = energies_of_means(F.pad(query, (0, 0, 0, 24)), means, scale=SCALE, k_len=1024)
    theirs = [0.0903, 0.3387, 0.0634, 0.0305, 0.1459, 0.2877, 0.0430, 0.0006]
    assert padded.softmax(-1)[0, 0, 7].tolist() == pytest.approx(theirs, abs=6e-5)
    energies = block_energies(query, key, scale=SCALE)
    # Rows that end before the padding are equal; no query of the last one sees its own ragged block.
    torch.testing.assert_close(energies[:, :, :7], padded[:, :, :7])
    assert float(energies[0, 0, 7, 7]) == -math.inf
    assert not torch.allclose(energies[0, 0, 7, :7], padded[0, 0, 7, :7])


def test_equal_logits_by_hand():
    scores = block_energies(*zeros(), scale=SCALE).softmax(-1)[0, 0, 3, :4]
    assert scores.tolist() == pytest.approx([128 / 385] * 3 + [1 / 385])
    query, key = zeros(1000)
    padded = energies_of_means(
        F.pad(query, (0, 0, 0, 24)), mean_tiles(key, 128), scale=SCALE, k_len=1024
    )
    assert padded.softmax(-1)[0, 0, 7].tolist() == pytest.approx([0.1427] * 7 + [0.0011], abs=6e-5)


def test_a_chunk_has_the_energies_of_the_whole_prompt():
    query, key = waves()
    whole = block_energies(query, key, scale=SCALE)
    torch.testing.assert_close(
        block_energies(query[:, :, 512:], key, scale=SCALE), whole[:, :, 4:], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "case", [Case(300, 300, group=2, kv_heads=2), Case(200, 333, group=3)], ids=str
)
def test_energies_by_definition(case):
    query, key, _ = (x.double() for x in tensors(case))
    energies = block_energies(query, key, scale=0.3)
    for head in range(case.heads):
        for column in range(energies.shape[3]):
            mean = key[0, head // case.group, column * 128 : column * 128 + 128].mean(0)
            for row in range(energies.shape[2]):
                total = sum(
                    math.exp(0.3 * float(query[0, head, token] @ mean))
                    for token in range(row * 128, min(row * 128 + 128, case.q_len))
                    if token + case.k_len - case.q_len >= column * 128 + 127
                )
                found = float(energies[0, head, row, column].exp())
                assert found == pytest.approx(total, rel=1e-9)


def test_sink_window_and_last_rows_are_always_kept():
    # α = 1 keeps the best block alone.
    mask = choose(rule(alpha=1.0, sink=2, window=3, last_rows=2), *waves()).to_map()[0]
    best = block_energies(*waves(), scale=SCALE)[0].argmax(-1)
    for head in range(2):
        for row in range(8):
            kept = set(mask[head, row].nonzero().flatten().tolist())
            always = {0, 1, row, row - 1, row - 2} | {int(best[head, row])}
            wanted = set(range(row + 1)) if row >= 6 else {c for c in always if 0 <= c <= row}
            assert kept == wanted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 1.5}, r"alpha=1.5 is not in \[0, 1\]"),
        ({"window": -1}, "window=-1 is negative"),
        ({"estimator": "x"}, "estimator='x' is not one of auto, torch, triton"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"flashprefill: {message}"):
        FlashPrefill(**setting)
