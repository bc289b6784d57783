"""rr_plus: block scores by hand and by definition, and its rules on made-up scores."""

from __future__ import annotations

import math

import pytest
import torch

from method.keep import NO_KEEP, KeepPolicy
from method.ops.rr_scores.torch import KEYS, block_scores, key_variances, sample_starts
from method.rr_plus import RRPlus, threshold_mask
from tests.attention_cases import Case, tensors
from tests.rivals import lists

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def zeros(length: int = 512) -> torch.Tensor:
    return torch.zeros(1, 1, length, 16)


def test_equal_logits_by_hand():
    # Stride 64, offset 0: row 2 samples tokens 256 and 320, which see 257 and 321 equal keys.
    options = {"scale": 0.25, "stride": 64, "keys": "exact"}
    largest = block_scores(zeros(), zeros(), over_samples="max", **options)[0, 0]
    assert largest[2].tolist() == pytest.approx([128 / 257, 128 / 257, 65 / 321, 0])
    summed = block_scores(zeros(), zeros(), over_samples="sum", **options)[0, 0]
    shares = [128 / 257 + 128 / 321] * 2 + [1 / 257 + 65 / 321, 0]
    assert summed[2].tolist() == pytest.approx(shares)
    # Strides: token 256 sees five of them (the last in part), token 320 six.
    strides = block_scores(zeros(), zeros(), over_samples="max", **options | {"keys": "largest"})[0, 0]
    assert strides[2].tolist() == pytest.approx([2 / 5, 2 / 5, 2 / 6, 0])


def needle() -> tuple[torch.Tensor, torch.Tensor]:
    """One query of row 3, token 400, that wants token 130 alone: a logit of ln 400 above the rest."""
    query, key = zeros(), zeros()
    query[:, :, 400, 0] = 4 * math.log(400)
    key[:, :, 130, 0] = 1
    return query, key


def test_the_keenest_query_decides_under_max_and_is_outvoted_under_sum():
    query, key = needle()
    options = {"scale": 0.25, "stride": 16, "keys": "exact"}
    largest = block_scores(query, key, over_samples="max", **options)[0, 0, 3]
    # 400 of the weight of 400 + 400; the seven other samples see everything alike.
    assert float(largest[1]) == pytest.approx((400 + 127) / 800)
    assert float(largest[0]) == pytest.approx(128 / 385)
    summed = block_scores(query, key, over_samples="sum", **options)[0, 0, 3]
    others = sum(128 / (384 + 16 * i + 1) for i in range(8) if i != 1)
    assert float(summed[1]) == pytest.approx(527 / 800 + others)
    mean = block_scores(query, key, over_samples="max", **options | {"keys": "mean"})[0, 0, 3]
    # The mean key of a stride hides the needle, a sixteenth of its logit is left: less than what the
    # first sample gives, which sees 25 strides alike.
    strong = 400 ** (1 / 16)
    assert float(mean[1]) == pytest.approx(8 / 25) and (7 + strong) / (25 + strong) < 8 / 25


def test_the_spread_of_a_stride_by_hand():
    key = zeros(256)
    key[0, 0, 2, 0] = 4  # stride 0 of four: values 0 0 4 0, mean 1, variance 3
    assert key_variances(key, 4)[0, 0, 0, 0] == 3
    query = zeros(256)
    query[0, 0, :, 0] = 2
    options = {"scale": 0.5, "stride": 4, "keys": "spread", "spread": 2.0}
    scores = block_scores(query, key, over_samples="max", **options)[0, 0]
    # Token 252 sees 64 strides; the first has the logit 0.5 * (2 * 1 + 2 * sqrt(4 * 3)).
    strong = math.exp(1 + math.sqrt(12))
    first = block_scores(query[:, :, 252:], key, over_samples="max", **options)[0, 0]
    assert float(first[0, 0]) == pytest.approx((strong + 31) / (strong + 63), rel=1e-5)
    assert float(scores[1, 0]) == pytest.approx((strong + 31) / (strong + 32), rel=1e-5)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(
    "case", [Case(300, 300, group=2, kv_heads=2, dim=16), Case(200, 333, group=3, dim=16)], ids=str
)
def test_scores_by_definition(case, keys):
    query, key, _ = (x.double() for x in tensors(case))
    stride, shift, scale = 16, case.k_len - case.q_len, 0.3
    options = {"scale": scale, "stride": stride, "offset": "reversed", "keys": keys, "spread": 1.5}
    found = {name: block_scores(query, key, over_samples=name, **options) for name in ("sum", "max")}
    starts = sample_starts(case.heads, stride, shift, "reversed")
    for head in range(case.heads):
        rows = {}
        for token in range(int(starts[head]), case.q_len, stride):
            row = shares(query[0, head, token], key[0, head // case.group], token + shift, keys)
            rows.setdefault(token // 128, []).append(row)
        for row, parts in rows.items():
            together = torch.stack(parts)
            torch.testing.assert_close(found["sum"][0, head, row], together.sum(0))
            torch.testing.assert_close(found["max"][0, head, row], together.amax(0))


def shares(query: torch.Tensor, keys: torch.Tensor, position: int, kind: str) -> torch.Tensor:
    """What one sampled query gives each key block, stride by stride of 16 in plain loops."""
    total = torch.zeros(-(-len(keys) // 128), dtype=torch.float64)
    for first in range(0, position + 1, 16):
        part = torch.zeros(16, keys.shape[1], dtype=torch.float64)
        part[: len(keys) - first] = keys[first : first + 16][: len(keys) - first]
        seen = 0.3 * (keys[first : min(first + 16, position + 1)] @ query)
        if kind == "exact":
            weight = seen.exp().sum()
        elif kind == "largest":
            weight = seen.max().exp()
        else:
            logit = query @ part.mean(0)
            if kind == "spread":
                logit = logit + 1.5 * (query**2 @ part.var(0, correction=0)).sqrt()
            weight = (0.3 * logit).exp()
        total[first // 128] += weight
    return total / total.sum()


@pytest.mark.parametrize("keys", KEYS)
def test_chunk_rows_do_not_change_the_scores(keys):
    query, key, _ = (x.double() for x in tensors(Case(1000, 1000, group=2)))
    options = {"scale": 0.25, "stride": 16, "keys": keys, "over_samples": "max"}
    whole = block_scores(query, key, **options, chunk_rows=64)
    part = block_scores(query, key, **options, chunk_rows=3)
    torch.testing.assert_close(part, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("selector", "tau", "wanted"),
    [
        # Worths of row 3: .332 .659 .332 .242, in all 1.566.
        ("top_p", 0.35, "0|01|02|013"),
        ("top_p", 0.6, "0|01|012|013"),
        ("relative", 0.5, "0|01|012|0123"),
        ("relative", 0.4, "0|01|012|013"),
    ],
)
def test_rules_by_hand(selector, tau, wanted):
    query, key = needle()
    method = RRPlus(tau=tau, selector=selector)
    mask = method.select(query, key, scale=0.25, layer=0, keep=SINK_DIAGONAL)
    assert lists(mask) == wanted


def test_a_threshold_keeps_what_reaches_it():
    scores = torch.tensor([[[[0.5, 0.0], [0.25, 0.125]]]])
    for least, wanted in ((0.5, "0|"), (0.25, "0|0"), (0.125, "0|01"), (0.0, "0|01")):
        assert lists(threshold_mask(scores, 256, 256, least=least, keep=NO_KEEP)) == wanted


def test_a_row_without_a_sample_keeps_nothing_for_itself():
    # Stride 64, offset 32: the one query of row 1 is not sampled.
    query, key, _ = tensors(Case(129, 129))
    for selector in ("top_p", "relative"):
        method = RRPlus(tau=0.99, stride=64, offset=32, selector=selector)
        assert lists(method.select(query, key, scale=0.2, layer=0, keep=NO_KEEP)) == "0|"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tau": 0}, r"tau=0 is not in \(0, 1\]"),
        ({"spread": -1.0}, "spread=-1.0 is negative"),
        ({"stride": 5}, "stride=5 is not one of 4, 8"),
        ({"keys": "best"}, "keys='best' is not one of mean, spread, exact, largest"),
        ({"over_samples": "mean"}, "over_samples='mean' is not one of sum, max"),
        ({"selector": "x"}, "selector='x' is not one of released, forced_first, top_p, relative"),
        ({"offset": 16}, "offset=16 is not one of head"),
        ({"keys": "spread", "estimator": "triton"}, "estimator='triton' has no kernel for keys='spr"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"rr_plus: {message}"):
        RRPlus(**setting)
