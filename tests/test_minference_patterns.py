"""MInference's pattern files and settings: found, followed, or refused."""

from __future__ import annotations

import pytest
import torch

from method.minference import MInference
from rr_bench.config.registry import expand_method
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.patterns import MIXED, write
from tests.test_streaming import blocks_of


def test_patterns_decide_head_by_head(tmp_path):
    query, key, _ = tensors(Case(1300, 1300, group=4))
    method = MInference(patterns=write(tmp_path, MIXED))
    assert method.heads_of(0, 4)[3] == ("vertical_and_slash", 1000, 6096)
    kept = method.select(query, key, scale=0.2, layer=0, keep=NO_KEEP).to_map()[0]
    at, token = torch.arange(1300)[:, None], torch.arange(1300)[None, :]
    shape = (token <= at) & ((token < 100) | (token > at - 300))
    assert torch.equal(kept[1], blocks_of(shape))
    # 1300 tokens are 21 tiles, fewer than the 100 a block-sparse head may take.
    assert torch.equal(kept[2], torch.ones(11, 11, dtype=torch.bool).tril())
    assert float(kept[0].float().mean()) < 0.5
    assert method.heads_of(0, 4)[0] == ("vertical_and_slash", 31, 101)
    assert MInference(ratio=0.5).heads_of(7, 1) == [("vertical_and_slash", 500, 3048)]


def test_a_file_of_another_model_is_refused(tmp_path):
    query, key, _ = tensors(Case(300, 300, group=2))
    method = MInference(patterns=write(tmp_path, MIXED))
    with pytest.raises(ValueError, match=r"lists head 2 in layer 0, the model has 2 .* another model"):
        method.select(query, key, scale=0.2, layer=0, keep=NO_KEEP)
    with pytest.raises(ValueError, match=r"has 1 layers, but layer 5 .* another model"):
        method.select(query, key, scale=0.2, layer=5, keep=NO_KEEP)


def test_the_probes_own_file_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = MInference(patterns="method/patterns/probe.json")
    assert all(len(method.heads_of(layer, 8)) == 8 for layer in range(4))
    spec = expand_method({"name": "minference", "patterns": "method/patterns/probe.json"})[0]
    assert set(spec.paths) == {"patterns"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"0": ["diagonal", 1, 2, 3]}], r"layer 0, head 0: unknown pattern 'diagonal'; .* stream_llm"),
        ([{"0": ["stream_llm", 1]}], r"head 0: \[pattern, size, size, score\] is needed"),
        ([{"0": ["stream_llm", 1, 2.5, 0]}], r"\[pattern, size, size, score\] is needed"),
        ([{"x": ["stream_llm", 1, 2, 0]}], r"head x: \[pattern"),
        ([{}, [1]], r"layer 1: an object of heads is needed, found \[1\]"),
        ({}, "not a JSON list"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"patterns=.*{message}"):
        MInference(patterns=write(tmp_path, content))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"vertical_size": -1}, "vertical_size=-1"),
        ({"ratio": 0.0}, r"ratio=0.0 is above 0"),
        ({"variant": "exact"}, "variant='exact' is not one of projected, native"),
        ({"estimator": "cuda"}, "estimator='cuda' is not one of auto, torch, triton"),
        ({"patterns": "/no/file.json"}, "patterns=/no/file.json cannot be read"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"minference: .*{message}"):
        MInference(**setting)
