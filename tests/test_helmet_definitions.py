"""HELMET's tasks in lm-eval: its own command line, groups and lengths, the generated definitions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lm_eval.tasks import TaskManager

from rr_bench import ROOT
from rr_bench.config.registry import expand_task
from rr_bench.config.schema import ConfigError
from rr_bench.tasks.definitions import definitions
from rr_bench.tasks.helmet_table import CATEGORIES, DATASETS, LENGTHS
from rr_bench.tasks.timing import build_seconds
from tests import helmet_layout as layout


@layout.real
@pytest.mark.slow
def test_lm_evals_own_command_line(tmp_path, smallest, helmet_dir):
    command = [str(Path(sys.executable).with_name("lm_eval")), "--include_path", str(ROOT / "tasks")]
    command += ["--tasks", "helmet_icl_8k,helmet_rerank_8k", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={smallest},dtype=float32"]
    command += ["--batch_size", "1", "--output_path", str(tmp_path)]
    command += ["--metadata", json.dumps({"helmet_dir": str(helmet_dir), "samples": 1})]
    done = subprocess.run(
        command, env=layout.OFFLINE, capture_output=True, text=True, timeout=280, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = tmp_path.rglob("results_*.json")
    results = json.loads(path.read_text())["results"]
    for task in ("helmet_icl_trec_fine_8k", "helmet_icl_8k", "helmet_msmarco_rerank_8k"):
        assert 0 <= results[task]["score,none"] <= 1


def test_every_group_and_task_is_known_to_lm_eval():
    found = TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False)
    groups = {f"helmet_{c}_{n}" for c in CATEGORIES for n in LENGTHS}
    assert groups | {f"helmet_{c}" for c in CATEGORIES} <= set(found.all_groups)
    tasks = {f"helmet_{d}_{n}" for d in DATASETS for n in LENGTHS}
    assert tasks | set(DATASETS) <= set(found.all_subtasks)


@layout.real
def test_the_length_of_a_named_task_holds_against_the_command_line(smallest, helmet_dir):
    given = {"helmet_dir": str(helmet_dir), "samples": 1, "pretrained": str(smallest)}
    manager = TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False, metadata=given)
    name = "helmet_icl_nlu_8k"
    task = manager.load([name])["tasks"][name]
    (doc,) = task.eval_docs
    assert (doc["length"], doc["dataset"], doc["source"]) == (8192, "icl_nlu", "helmet")
    assert task.config.generation_kwargs["max_gen_toks"] == DATASETS["icl_nlu"].generation


def test_definitions_are_those_the_table_makes():
    files = dict(definitions())
    for name, text in files.items():
        assert (ROOT / "tasks" / name).read_text() == text, (
            f"python -m rr_bench.tasks.definitions: {name}"
        )
    on_disk = {
        p.relative_to(ROOT / "tasks").as_posix() for p in (ROOT / "tasks/helmet").rglob("*.yaml")
    }
    assert on_disk == set(files)
    config = yaml.safe_load(files["helmet/kilt_nq.yaml"].replace("!function ", ""))
    assert config["metadata"]["samples"] == 600
    assert config["generation_kwargs"]["max_gen_toks"] == 20


def test_rr_bench_knows_datasets_and_groups_but_not_names_with_a_length():
    assert [spec.name for spec in expand_task("helmet_rag")] == [
        d.name for d in DATASETS.values() if d.category == "rag"
    ]
    sources = expand_task("icl_nlu")[0].sources
    assert {"rr_bench/tasks/icl.py", "rr_bench/tasks/scoring.py", "rr_bench/suite.py"} <= set(sources)
    with pytest.raises(ConfigError, match="did you mean"):
        expand_task("helmet_icl_8k")


@layout.real
def test_the_benchmark_of_prompt_building_takes_every_kind_of_dataset(smallest, helmet_dir):
    given = {"length": 8192, "tokenizer": str(smallest), "helmet_dir": str(helmet_dir)}
    for name in ("json_kv", "niah_mk_3", "kilt_popqa_3"):
        first, each, rows = build_seconds(name, given, 3)
        assert first > 0 and each >= 0 and rows == 3
