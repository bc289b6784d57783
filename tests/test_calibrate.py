"""Calibration and pattern search on a tiny model, and their parts by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from method.base import Knob
from method.minference import MInference
from method.ops.vertical_slash.head_patterns import LINES, LayerHeads
from rr_bench import CONF
from rr_bench.config.registry import expand_method
from rr_bench.config.schema import DataSettings, ModelSettings, RunSettings
from rr_bench.run.calibrate import OutOfReach, bisect, calibrate
from rr_bench.run.pattern_search import CANDIDATES, best_blocks, candidate_scores, search, winners
from tests.attention_cases import Case, tensors


@pytest.fixture
def make(checkpoint, tmp_path):
    """Settings of a small calibration; keywords override."""

    def settings(**changes) -> RunSettings:
        defaults = {
            "out": str(tmp_path / "out"),
            "model": ModelSettings(path=str(checkpoint), name="tiny"),
            "methods": ["full", "rr", {"name": "streaming", "sink": 0}],
            "tasks": ["recall_prefill"],
            "lengths": [2048],
            "samples": 1,
            "device": "cpu",
            "target_density": 0.6,
            "data": DataSettings(),
        }
        return RunSettings(**{**defaults, **changes})

    return settings


def test_bisection_by_hand():
    share = Knob("tau", 0.01, 1.0)
    value, found, tried = bisect(lambda tau: tau**2, share, 0.25, 1000)
    assert value == pytest.approx(0.5, abs=0.01) and found == value**2
    assert [pair[0] for pair in tried[:3]] == [0.01, 0.505, 0.2575][: len(tried[:3])]
    tokens = Knob("window", 1, 1 << 30, whole=True)
    value, found, tried = bisect(lambda size: size / 4000, tokens, 0.5, 4000)
    assert value == int(value) and value == pytest.approx(2000, abs=20)
    assert max(pair[0] for pair in tried) <= 4000


def test_a_step_that_jumps_over_the_target_gives_the_nearer_side():
    value, found, tried = bisect(
        lambda tau: 0.45 if tau < 0.7 else 0.9, Knob("tau", 0.01, 1.0), 0.5, 1000
    )
    assert found == 0.45 and value < 0.7 and len(tried) > 8


def test_too_low_a_target_says_so():
    with pytest.raises(OutOfReach, match=r"tau=0.01 already computes 0.300 .* target_density=0.2"):
        bisect(lambda tau: 0.3, Knob("tau", 0.01, 1.0), 0.2, 1000)


def test_methods_reach_the_wanted_density_in_a_run(make, capsys):
    settings = make()
    assert calibrate(settings) == 0
    written = json.loads((Path(settings.out) / "calibration-0.6.json").read_text())
    assert [answer["knob"] for answer in written["methods"]] == ["tau", "window"]
    assert all(answer["density"] == pytest.approx(0.6, abs=0.06) for answer in written["methods"])
    sink = written["methods"][1]["method"]
    assert sink == {"name": "streaming", "sink": 0, "window": sink["window"]}
    out = capsys.readouterr().out
    assert "methods='[full,{name: rr, tau: " in out and "{name: streaming, sink: 0, window: " in out


def test_prompts_that_are_dense_in_a_run_are_dense_here(make, capsys):
    assert calibrate(make(methods=["rr"], dense_below=4096)) == 1
    assert "tau=0.01 already computes 1.000 of attention" in capsys.readouterr().err


def test_minference_takes_part_by_its_native_variant():
    chosen = yaml.safe_load((CONF / "experiment" / "calibrate.yaml").read_text())["methods"]
    specs = [spec for name in chosen for spec in expand_method(name)]
    variants = [spec.params["variant"] for spec in specs if "minference" in spec.name]
    assert variants == ["native"]


def test_a_method_out_of_reach_fails_alone(make, capsys):
    settings = make(methods=["rr", "trianglemix"], target_density=0.5)
    assert calibrate(settings) == 1
    written = json.loads((Path(settings.out) / "calibration-0.5.json").read_text())
    assert [answer["method"]["name"] for answer in written["methods"]] == ["rr"]
    assert "trianglemix" in capsys.readouterr().err


def test_candidates_are_scored_by_the_mass_they_keep():
    query, key, _ = (x.double() for x in tensors(Case(1400, 1400, group=2, kv_heads=2)))
    scores = candidate_scores(query, key, 0.2)
    assert scores.shape == (len(CANDIDATES), 4)
    weights = query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.2
    future = torch.ones(1400, 1400, dtype=torch.bool).triu(1)
    weights = weights.masked_fill(future, -torch.inf).softmax(-1)[0, :, 700:]
    at, token = torch.arange(700, 1400)[:, None], torch.arange(1400)[None, :]
    # The search's window for 800 holds 801 tokens.
    shape = (token < 100) | (token >= at - 800)
    assert scores[0].tolist() == pytest.approx((weights * shape).sum(-1).mean(-1).tolist())
    layer = LayerHeads([(LINES, 30, 800)] * 4, 1.0, "torch")
    columns, slashes = layer.lines(query, key, 0.2, [0, 1, 2, 3], near=30)
    seen = columns[0, :, None, :] | slashes[0][:, (at - token).clamp(min=0)]
    assert scores[1].tolist() == pytest.approx((weights * seen).sum(-1).mean(-1).tolist())
    # 3500 lines are more than there are keys.
    assert scores[4].tolist() == pytest.approx([1.0] * 4)


def test_the_search_begins_with_30_distances():
    # The last 64 queries find nothing at distances below 39: all the mass lies further back.
    query, key = (torch.zeros(1, 1, 1400, 64, dtype=torch.float64) for _ in "qk")
    key[..., :1361, 0], query[..., 0] = 9, 40
    layer = LayerHeads([(LINES, 30, 100)], 1.0, "torch")
    near, method = (
        layer.lines(query, key, 1.0, [0], **options)[1][0, 0].nonzero().flatten().tolist()
        for options in ({"near": 30}, {})
    )
    assert method == list(range(100)) and near[:30] == list(range(30)) and near[30] > 30


def test_blocks_of_the_search_are_an_eighth_rounded_down():
    query, key, _ = tensors(Case(1400, 1400))
    # 44 blocks of 32: the best 5 of every row that sees as many.
    assert best_blocks(query, key)[0, 0].sum(-1).tolist() == [*range(1, 5), *[5] * 40]


def test_winners_are_saved_as_lines():
    scores = torch.zeros(len(CANDIDATES), 3)
    scores[0, 0] = scores[5, 1] = scores[3, 2] = scores[4, 2] = 0.5
    found = {1: [scores, scores]}
    assert winners(found, as_saved=False) == [
        {},
        {
            "0": ["stream_llm", 100, 800, 0.5],
            "1": ["block_sparse", 8, 1, 0.5],
            "2": [LINES, 500, 700, 0.5],
        },
    ]
    saved = winners(found, as_saved=True)[1]
    assert saved["0"] == [LINES, 100, 800, 0.5] and saved["1"] == [LINES, 1000, 6096, 0.5]


def test_a_search_writes_files_that_the_method_reads(make, checkpoint):
    settings = make(methods=["full"])
    assert search(settings) == 0
    for name in ("patterns.json", "patterns_found.json"):
        method = MInference(patterns=str(Path(settings.out) / name))
        for layer in (0, 1):
            assert all(math.isfinite(a + b) for _, a, b in method.heads_of(layer, 2))
        with pytest.raises(ValueError, match="another model"):
            method.heads_of(2, 2)
        with pytest.raises(ValueError, match="another model"):
            method.heads_of(0, 1)
