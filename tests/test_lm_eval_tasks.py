"""The task definitions run in lm-eval itself, with a plain Hugging Face model."""

import json
import sys
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.__main__ import cli_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.sources import newline_stop
from tests import helmet_layout as layout
from tests.tiny import recall_rows, tiny_llama

ROOT = Path(__file__).parents[1]
RECALL = ["json_kv", "niah_mk_2", "niah_mk_3", "niah_mv"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def lm(model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=8192)


def manager(model_dir, **metadata):
    given = {"length": 2048, "samples": 2, "pretrained": str(model_dir), **metadata}
    return TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False, metadata=given)


def evaluate(lm, model_dir, tasks, **metadata):
    found = manager(model_dir, **metadata)
    return simple_evaluate(
        model=lm, tasks=tasks, task_manager=found, bootstrap_iters=0, log_samples=True
    )


def test_every_task_is_found(model_dir):
    found = manager(model_dir)
    assert {*RECALL, "recall_prefill"} <= set(found.all_subtasks)
    assert "helmet_recall" in found.all_groups


def test_generated_answers(lm, model_dir):
    result = evaluate(lm, model_dir, ["json_kv"])
    samples = result["samples"]["json_kv"]
    rows = recall_rows("json_kv", length=2048, samples=2, pretrained=str(model_dir))
    assert [s["doc"]["uid"] for s in samples] == [row["uid"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        prompt, options = sample["arguments"][0]
        assert prompt == row["prompt"]
        assert (options["max_gen_toks"], options["do_sample"], options["until"]) == (100, False, [])
    assert result["results"]["json_kv"]["score,none"] == 0.0
    assert result["versions"]["json_kv"] == 1


def test_group_averages_the_four(lm, model_dir):
    result = evaluate(lm, model_dir, ["helmet_recall"], samples=1)
    assert set(result["group_subtasks"]["helmet_recall"]) == set(RECALL)
    scores = [result["results"][task]["score,none"] for task in RECALL]
    assert result["results"]["helmet_recall"]["score,none"] == pytest.approx(sum(scores) / 4)


def test_recall_prefill_is_graded_by_greedy_answers(lm, model_dir, monkeypatch):
    (row,) = recall_rows("recall_prefill", length=2048, samples=1, pretrained=str(model_dir))
    spans, golds = json.loads(row["spans"]), json.loads(row["golds"])
    whole = torch.tensor(lm.tok_encode(row["prompt"]))
    calls = []

    def right_on_every_second_call(self, inps, *args, **kwargs):
        calls.append(inps.shape[1])
        following = whole[1 : inps.shape[1] + 1].clone()
        if len(calls) % 2:
            following[-1] += 1  # one wrong token makes the answer wrong
        return torch.nn.functional.one_hot(following, 1024)[None].float()

    monkeypatch.setattr(HFLM, "_model_call", right_on_every_second_call)
    result = evaluate(lm, model_dir, ["recall_prefill"], samples=1)
    (sample,) = result["samples"]["recall_prefill"]
    assert [tuple(pair) for pair in sample["arguments"]] == [
        (row["prompt"][:start], f" {gold}") for (start, _), gold in zip(spans, golds, strict=True)
    ]
    assert len(calls) == len(golds) > 1
    assert result["results"]["recall_prefill"]["score,none"] == (len(golds) // 2) / len(golds)


def test_recall_prefill_refuses_a_changed_prompt(model_dir):
    loaded = manager(model_dir, samples=1).load(["recall_prefill"])
    task = loaded["tasks"]["recall_prefill"]
    with pytest.raises(ValueError, match="system_instruction"):
        task.build_all_requests(system_instruction="Be brief.")
    task.build_all_requests()
    assert [i.idx for i in task.instances] == list(range(len(task.instances)))
    assert all(i.doc_id == 0 and i.task_name == "recall_prefill" for i in task.instances)


def test_answer_budget_and_newline_stop_follow_table_and_settings(model_dir):
    def options(name, **metadata):
        task = manager(model_dir, samples=1, **metadata).load([name])["tasks"][name]
        return task.config.generation_kwargs

    assert options("json_kv")["max_gen_toks"] == 100 and options("niah_mv")["max_gen_toks"] == 50
    assert options("json_kv")["until"] == []
    assert options("json_kv", newline_stop=True)["until"] == ["\n"]
    thinking = options("json_kv", newline_stop=True, thinking=True)
    assert (thinking["max_gen_toks"], thinking["until"]) == (100 + 32768, [])


@layout.real
def test_a_group_at_the_length_of_the_metadata_stops_where_the_harness_does(model_dir, helmet_dir):
    given = {"helmet_dir": str(helmet_dir), "samples": 1, "length": 8192}
    for group in ("helmet_rerank", "helmet_rag", "helmet_longqa"):
        given |= {"document_floor": 0}
        found = manager(model_dir, **given).load([group])["tasks"]
        for name, task in found.items():
            (doc,) = task.eval_docs
            assert (doc["length"], doc["dataset"], doc["source"]) == (8192, name, "helmet")
            until = ["\n"] if newline_stop(name, "auto") else []
            assert task.config.generation_kwargs["until"] == until
            assert task.config.generation_kwargs["max_gen_toks"] == DATASETS[name].generation
    missing = {d.category for d in DATASETS.values()} - {"recall"}
    assert {f"helmet_{one}" for one in missing} <= set(manager(model_dir).all_groups)


def test_lm_evals_own_command_line(model_dir, tmp_path, monkeypatch):
    command = ["lm_eval", "run", "--include_path", str(ROOT / "tasks")]
    command += ["--model", "hf", "--model_args", f"pretrained={model_dir},dtype=float32"]
    command += ["--tasks", "niah_mv,recall_prefill", "--device", "cpu", "--batch_size", "1"]
    command += ["--metadata", json.dumps({"length": 1024, "samples": 1})]
    monkeypatch.setattr(sys, "argv", [*command, "--output_path", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    cli_evaluate()
    (path,) = tmp_path.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    assert {task: results[task]["score,none"] for task in ("niah_mv", "recall_prefill")} == {
        "niah_mv": 0.0,
        "recall_prefill": 0.0,
    }
