"""The probe: its tokenizer, its training text, its training run, and the model that ships."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from rr_bench import ROOT
from rr_bench.probe import corpus, curriculum, train
from rr_bench.probe.initial import prepare
from rr_bench.probe.tokenizer import build_tokenizer
from rr_bench.tasks.task import build

MODEL = ROOT / "rr_bench/probe/model"
UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@pytest.mark.parametrize(
    "text", ["plain words", f'"{UUID}": "x"', "naïve → τ 漢字\x00", "  1234567\n\n"]
)
def test_tokenizer_loses_nothing(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_uuid_is_a_token_per_hex_pair(tokenizer: PreTrainedTokenizerBase) -> None:
    for before, after in (('"', '"'), ("Key: ", "\nCorresponding value:"), (" for ", " mentioned")):
        ids = tokenizer(before + UUID + after, add_special_tokens=False)["input_ids"]
        inside = tokenizer(UUID, add_special_tokens=False)["input_ids"]
        assert len(inside) == 16
        assert any(ids[i : i + 16] == inside for i in range(len(ids)))


def test_shipped_tokenizer_is_the_one_the_code_builds(tokenizer: PreTrainedTokenizerBase) -> None:
    shipped = AutoTokenizer.from_pretrained(MODEL)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    text = f"JSON data:\nKey: {UUID}\nCorresponding value: 1234567"
    assert shipped(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_shipped_model_is_small_and_in_shards() -> None:
    shards = list(MODEL.glob("*.safetensors"))
    assert all(shard.stat().st_size <= 10_000_000 for shard in shards)
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 20_000_000
    elements = 0
    for shard in shards:
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                assert tensor.dtype == torch.bfloat16
                elements += tensor.numel()
    assert 5_000_000 < elements <= 10_000_000


@pytest.mark.parametrize("make", [corpus.kv_text, corpus.mk2_text, corpus.mk3_text])
def test_answers_are_in_the_haystack_and_end_with_eos(make, tokenizer: PreTrainedTokenizerBase) -> None:
    text = make(random.Random(3), 6, 4)
    whole = "".join(text.parts)
    example = corpus.encode(text, tokenizer, 700)
    assert len(text.spans) == 4
    for number, (begin, end) in enumerate(text.spans):
        answer = whole[begin:end]
        assert whole.index(answer.strip()) < begin
        targets = example.targets[example.spans == number]
        assert tokenizer.decode(targets[:-1]) == answer
        assert targets[-1] == tokenizer.eos_token_id
        positions = example.positions[example.spans == number]
        assert tokenizer.decode(example.ids[positions[1:]]) == answer


def test_many_values_are_listed_in_order(tokenizer: PreTrainedTokenizerBase) -> None:
    text = corpus.mv_text(random.Random(3), 30, 3)
    whole = "".join(text.parts)
    for begin, end in text.spans:
        values = whole[begin:end].strip().split(", ")
        assert len(set(values)) == 4
        places = [whole.index(f": {value}") for value in values]
        assert places == sorted(places) and places[-1] < text.spans[0][0]


@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_texts_fit_their_length(length: int, tokenizer: PreTrainedTokenizerBase) -> None:
    for index in range(40):
        text = corpus.draw_text(1, index, length)
        assert len(tokenizer("".join(text.parts))["input_ids"]) <= length
        assert text.spans


def test_training_text_shares_no_identifier_with_evaluation_rows() -> None:
    trained = " ".join(
        "".join(corpus.draw_text(s, i, 1024).parts) for s in (7, 20260205) for i in range(20)
    )
    rows = build(dataset="recall_prefill", length=2048, samples=2, tokenizer=str(MODEL), seed=42)[
        "test"
    ]
    golds = [value for row in rows for value in json.loads(row["golds"])]
    assert golds and not any(value in trained for value in golds)


def test_batch_is_a_function_of_seed_and_step(tokenizer: PreTrainedTokenizerBase, small_steps) -> None:
    stages = ((256, 2), (512, 4))
    one, two = (curriculum.Curriculum(tokenizer, stages, 5) for _ in range(2))
    assert all(torch.equal(one[i].ids, two[i].ids) for i in range(len(one)))
    assert {one[i].ids.shape[1] for i in range(len(one))} <= {256, 512}
    other = curriculum.Curriculum(tokenizer, stages, 6)
    assert not torch.equal(one[0].ids, other[0].ids)


def test_prepared_heads_look_back_and_copy(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(train.probe_config(len(tokenizer)))
    prepare(model, seed=0)
    model.set_attn_implementation("eager")
    ids = torch.randint(3, len(tokenizer), (1, 300))
    with torch.no_grad():
        weights = model.model(ids, output_attentions=True).attentions[0][0]
    for head in range(8):
        assert weights[head, 250, 250 - head - 1] > 0.98
    repeated = torch.cat([ids[:, :60], ids[:, :60]], 1)
    with torch.no_grad():
        guess = model(repeated).logits[0, 64:119].argmax(-1)
    assert (guess == repeated[0, 65:]).float().mean() > 0.5


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "TOKENS_PER_STEP", 512)


def test_resumed_training_equals_uninterrupted(tmp_path: Path, small_steps) -> None:
    def run(out: Path, *extra: str) -> None:
        common = ["--stages", "256:4", "--max-length", "512", "--workers", "0", "--device", "cpu"]
        common += ["--log-every", "1"]
        train.Trainer(train.parse_args(["--out", str(out), *common, *extra])).run()

    run(tmp_path / "whole", "--save-every", "1e9")

    class Stop(Exception):
        pass

    class Interrupted(train.Trainer):
        def step(self, done: int, batch: curriculum.Batch):
            if done == 4:
                raise Stop
            return super().step(done, batch)

    args = ["--out", str(tmp_path / "cut"), "--stages", "256:4", "--max-length", "512"]
    args += ["--workers", "0"]
    args += ["--device", "cpu", "--log-every", "1", "--save-every", "0"]
    with pytest.raises(Stop):
        Interrupted(train.parse_args(args)).run()
    run(tmp_path / "cut", "--save-every", "1e9")

    def losses(out: Path) -> dict[int, float]:
        lines = [json.loads(text) for text in (out / "train_log.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=2e-4)


def test_evaluation_scores_the_shipped_model() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    assert train.evaluate(model, tokenizer, (2048,), 1)[2048] >= 0.9
