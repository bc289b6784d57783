"""The video probe: its starting point, its training run, the model that ships, and the whole path."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from rr_bench import ROOT
from rr_bench.config.schema import RunSettings
from rr_bench.probe import train_video
from rr_bench.probe.video import tower
from rr_bench.probe.video.channels import codes, video_target
from rr_bench.probe.video.corpus import Shape, draw_batch
from rr_bench.probe.video.evaluate import evaluate
from rr_bench.probe.video.initial import prepare
from rr_bench.probe.video.tokenizer import build_tokenizer
from rr_bench.run.run import run
from rr_bench.store.reading import read_store
from rr_bench.tasks.prompts.card_questions import choice_question, open_question
from rr_bench.tasks.synthetic.cards import KEYS, Card
from tests.tiny import tiny_llama
from tests.tiny_vlm import tiny_vlm

MODEL = ROOT / "rr_bench/probe/video/model"


def test_every_word_of_a_question_is_a_token_of_its_own() -> None:
    words = build_tokenizer()
    for text in (choice_question(Card(100, 3), [3, 1, 2, 9]), open_question(Card(511, 0))):
        ids = words(text)["input_ids"]
        assert words.unk_token_id not in ids and words.decode(ids) == text
    assert AutoTokenizer.from_pretrained(MODEL).get_vocab() == words.get_vocab()


@torch.no_grad()
def test_the_wired_model_looks_cards_up_that_a_perfect_tower_sees() -> None:
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(train_video.probe_config())
    prepare(model, 3)
    table = codes(3)
    cards = [Card(key, digit) for key in range(KEYS) for digit in range(10)]
    seen = video_target(cards, table).view(KEYS, 10, 1, 1, -1).expand(-1, -1, 2, 4, -1)
    plain = video_target([None] * 8, table)[:, None].expand(-1, 4, -1)
    batch = draw_batch("test", 8, Shape(64, 24, 8, open=0.0), 2, 8)
    text = model.model.language_model
    embeds = train_video.embed(text.embed_tokens(batch.ids), batch.views, seen, plain)
    hidden = text(
        inputs_embeds=embeds, position_ids=batch.positions.expand(-1, 8, -1)
    ).last_hidden_state
    right = model.lm_head(hidden[:, batch.answers - 1]).argmax(-1) == batch.ids[:, batch.answers]
    assert right.float().mean() > 0.8  # one of fifty words by chance


def test_a_batch_is_a_function_of_its_seed() -> None:
    one, two, other = (draw_batch(seed, 2, Shape(16, 6, 4), 2, 8) for seed in ("a", "a", "b"))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.views, two.views)
    assert not torch.equal(one.ids, other.ids)


def test_the_bank_holds_what_the_tower_sees_of_every_card(monkeypatch) -> None:
    monkeypatch.setattr(tower, "KEYS", 3)
    model = Qwen2VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).eval()
    seen, plain = tower.bank(model, views := 2, 5, seed=0)
    assert seen.shape == (3, 10, views, 4, 384) and plain.shape == (5, 4, 384)
    flags = seen[..., 1], plain[..., 1]
    assert flags[0].min() > 0.5 > flags[1].max()


def test_training_runs_to_its_end_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(train_video, "VIEWS", 1)
    monkeypatch.setattr(train_video, "PLAIN", 4)
    monkeypatch.setattr(
        train_video, "bank", lambda *_: (torch.zeros(KEYS, 10, 1, 4, 384), torch.zeros(4, 4, 384))
    )
    monkeypatch.setattr(train_video, "EVALUATED", (8,))
    small = [
        "--stages",
        "8:2",
        "--tokens",
        "200",
        "--frames",
        "4",
        "--scale",
        "0.01",
        "--device",
        "cpu",
    ]
    small += ["--log-every", "1", "--eval-clips", "1", "--save-every", "0"]
    train_video.Trainer(train_video.parse_args(["--out", str(tmp_path / "a"), *small])).run()
    again = ["--out", str(tmp_path / "b"), "--init", str(tmp_path / "a/model"), "--limit", "0", *small]
    train_video.Trainer(train_video.parse_args(again)).run()
    lines = [[json.loads(line) for line in (tmp_path / x / "train_log.jsonl").open()] for x in "ab"]
    assert any("tower_step" in line for line in lines[0]) and "at_the_end" in lines[0][-1]
    assert lines[1][0]["stopped"] == "time limit"  # a cut run still saves and evaluates


def test_the_shipped_model_is_small_and_answers() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000
    with safe_open(MODEL / "model.safetensors", framework="pt") as tensors:
        found = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118
    assert sum(tensor.numel() for tensor in found) <= 5_000_000
    assert {tensor.dtype for tensor in found} == {torch.bfloat16}
    model = Qwen2VLForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32).eval()
    scores = evaluate(model, 256, 96, 64, 1)
    assert scores["inside"] >= 0.95 and scores["at_the_end"] >= 0.85  # of 64, of 8


def settings(out: Path, model: object, **changes) -> RunSettings:
    made = {
        "methods": ["full", {"name": "rr", "tau": 0.5}],
        "tasks": ["video_cards", "video_cards_prefill"],
    }
    made |= {"lengths": [512], "samples": 1, "device": "cpu", **changes}
    found = RunSettings(out=str(out), **made)
    found.model.path, found.model.name = str(model), "probe"
    return found


def summary(found: RunSettings) -> pd.DataFrame:
    return pd.read_csv(Path(found.out) / "summary.csv").set_index(["method", "task"])


def test_clips_are_written_sampled_answered_and_tabled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RR_BENCH_CACHE", str(tmp_path / "cache"))
    assert run(settings(tmp_path / "out", MODEL)) == 0
    table = summary(settings(tmp_path / "out", MODEL))
    dense, sparse = (table.loc[(name, "video_cards_prefill")] for name in ("full", "rr(tau=0.5)"))
    assert dense["score"] >= 90 and dense["density"] == 100
    assert sparse["density"] < 80 and sparse["score"] < dense["score"]
    cells, problems = read_store(tmp_path / "out")
    assert not problems
    (end,) = (c for c in cells if c.info.task == "video_cards" and c.info.dense)
    assert all(one.letter == one.argmax_letter and one.answered for one in end.samples)
    assert "positions" not in end.info.settings and end.info.settings["versions"]["vision"] == 1


@pytest.mark.parametrize("rule", ["original", "transformers"])
def test_the_rule_of_the_positions_is_part_of_the_key(tmp_path: Path, monkeypatch, rule: str) -> None:
    monkeypatch.setenv("RR_BENCH_CACHE", str(tmp_path / "cache"))
    tiny_vlm("qwen2_vl", tmp_path / "model")
    found = settings(tmp_path / "out", tmp_path / "model", lengths=[64], samples=1, methods=["full"])
    found.model.positions = rule
    found.tasks = ["video_cards"]
    assert run(found) == 0
    (cell,) = read_store(tmp_path / "out")[0]
    assert cell.info.settings.get("positions", "original") == rule


def test_a_model_that_cannot_see_is_named_before_it_is_loaded(tmp_path: Path, capsys) -> None:
    tiny_llama(tmp_path / "model")
    assert run(settings(tmp_path / "out", tmp_path / "model")) == 1
    assert "needs a model that can be given a video" in capsys.readouterr().err
