"""The bounds: block mass is the true one, and the two ways of reducing it differ as they should."""

from __future__ import annotations

import pytest
import torch

from method.ops.antidiagonal.torch import antidiagonal_scores
from method.oracle import Oracle
from tests.attention_cases import NO_KEEP, Case, tensors


def true_weights(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal softmax of every query, the plain way: ``[B, Hq, Lq, Lk]``."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = query @ key.transpose(-1, -2) * scale
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1 + key.shape[2] - query.shape[2])
    return logits.masked_fill(future, -torch.inf).softmax(-1)


@pytest.mark.parametrize(
    "case", [Case(300, 300, group=2, kv_heads=2), Case(200, 333, group=3), Case(256, 512)], ids=str
)
def test_mass_is_the_true_attention_mass(case):
    query, key, _ = (x.double() for x in tensors(case))
    weights = true_weights(query, key, 0.3)
    for reduction in ("sum", "max"):
        mass = Oracle(reduction=reduction).mass(query, key, scale=0.3)
        for row in range(mass.shape[2]):
            for column in range(mass.shape[3]):
                cut = weights[:, :, row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
                per_query = cut.sum(-1)
                truth = per_query.sum(-1) if reduction == "sum" else per_query.amax(-1)
                torch.testing.assert_close(mass[:, :, row, column], truth, atol=1e-12, rtol=0)


def test_uniform_mass_by_hand():
    # All logits equal: query t gives each of its t + 1 keys 1 / (t + 1).
    zeros = torch.zeros(1, 1, 256, 16, dtype=torch.float64)
    mass = Oracle().mass(zeros, zeros, scale=0.25)[0, 0]
    share = 128 * sum(1 / (token + 1) for token in range(128, 256))
    assert share == pytest.approx(88.473, abs=1e-3)
    assert mass.flatten().tolist() == pytest.approx([128, 0, share, 128 - share])
    # Block 0 weighs most for query 128, block 1 for query 255, and rows need not sum to 1.
    most = Oracle(reduction="max").mass(zeros, zeros, scale=0.25)[0, 0]
    assert most.flatten().tolist() == pytest.approx([1, 0, 128 / 129, 0.5])
    # The sum gives block 0 of row 1 a share of 0.691, the maximum 0.665.
    for tau, reduction, kept in ((0.68, "sum", 2), (0.68, "max", 3), (0.66, "max", 2)):
        mask = Oracle(tau=tau, reduction=reduction).select(
            zeros, zeros, scale=0.25, layer=0, keep=NO_KEEP
        )
        assert int(mask.counts.sum()) == kept, (tau, reduction)


def test_the_maximum_keeps_what_one_query_needs():
    # One query of the last block looks at one key of block 1 only; all others look at block 0.
    query, key = (torch.zeros(1, 1, 1024, 16, dtype=torch.float64) for _ in "qk")
    query[..., 0] = 40
    key[:, :, :128, 0] = 40
    key[:, :, 200, 1] = 40
    query[:, :, 1000, 0], query[:, :, 1000, 1] = 0, 40
    summed, most = (
        Oracle(reduction=reduction, tau=0.9).select(query, key, scale=0.25, layer=0, keep=NO_KEEP)
        for reduction in ("sum", "max")
    )
    assert summed.to_map()[0, 0, 7].nonzero().flatten().tolist() == [0]
    assert most.to_map()[0, 0, 7].nonzero().flatten().tolist() == [0, 1]


def test_summed_oracle_keeps_its_share_of_mass():
    query, key, _ = (x.double() for x in tensors(Case(1024, 1024, group=2)))
    mask = Oracle(tau=0.8).select(query, key, scale=0.3, layer=0, keep=NO_KEEP).to_map()
    mass = antidiagonal_scores(query, key, scale=0.3, stride=1)
    kept = (mass * mask).sum(-1) / mass.sum(-1)
    assert bool((kept >= 0.8).all()) and float(mask.float().mean()) < 0.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tau": 2}, r"tau=2 is not in \(0, 1\]"),
        ({"reduction": "mean"}, "reduction='mean' is not one of sum, max"),
        ({"selector": "v2"}, "selector='v2' is not one of released, forced_first, top_p"),
        ({"estimator": "x"}, "estimator='x' is not one of auto, torch, triton"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"oracle: {message}"):
        Oracle(**setting)
