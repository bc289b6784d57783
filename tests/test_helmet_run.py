"""HELMET from the command line: a whole offline run, lm-eval's own CLI, the definitions, the cost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager

from rr_bench.catalog import expand_task
from rr_bench.checkpoint import Device, max_positions, read_config
from rr_bench.config import ROOT, ConfigError, DataSettings, ModelSettings, RunSettings, read_settings
from rr_bench.cost import describe, estimate, known_times, seconds_at, table_times, wanted_rows
from rr_bench.models import load_model
from rr_bench.plan import make_plan
from rr_bench.store import read_cells
from rr_bench.suite import CATEGORIES, DATASETS, LENGTHS
from rr_bench.tasks.definitions import definitions
from tests import helmet_layout as layout
from tests.tiny import tiny_llama

real = pytest.mark.skipif(
    not layout.SHARED.is_dir(), reason="needs ../shared/data beside the repository"
)
OFFLINE = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    small = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    folder = tmp_path_factory.mktemp("model") / "llama"
    return tiny_llama(folder, num_hidden_layers=1, intermediate_size=64, **small)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return layout.lay_out(tmp_path_factory.mktemp("helmet"))


@real
@pytest.mark.slow
def test_a_whole_run_offline(tmp_path, checkpoint, data):
    command = [sys.executable, "-m", "rr_bench", "+experiment=helmet", "lengths=[8192]", "samples=2"]
    command += [f"model={checkpoint}", f"data.helmet_dir={data}", "data.document_floor=0"]
    command += [f"out={tmp_path}", "device=cpu", "methods=[full,{name: rr, tau: 0.5, stride: 8}]"]
    done = subprocess.run(command, env=OFFLINE, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    missing = ["niah_mk_2", "niah_mk_3", "kilt_popqa_3", "icl_trec_coarse", "icl_trec_fine"]
    assert [line.partition("plan: ")[2].split(" ")[0] for line in errors] == missing
    assert done.returncode == 1  # files of five datasets are missing, and that is said
    assert "estimate: 52 prompts" in done.stdout  # infbench_qa has one row, which shows only later
    frame = pd.read_csv(tmp_path / "categories.csv")
    full = frame[(frame["method"] == "full") & (frame["length"] == 8192)].set_index("column")
    coverage = {name: f"{row['have']}/{row['of']}" for name, row in full.iterrows()}
    assert coverage == {
        **{"Recall": "2/4", "RAG": "3/4", "ICL": "3/5", "Cite": "2/6", "Re-rank": "1/1"},
        **{"LongQA-2": "2/2", "LongQA": "2/3", "Summ": "0/2"},
        **{"Avg. (RR)": "2/6", "Avg. (HELMET)": "1/7"},
        **{"cite_correctness": "2/2", "longqa_rouge": "2/3", "summ_rouge": "0/2"},
    }
    page = (tmp_path / "categories.md").read_text()
    assert "not run: kilt_popqa_3 at lengths=8192" in page and str(tmp_path) not in page
    for cell in read_cells(tmp_path):
        assert cell.data["rows_in_files"] and cell.done == 2
        assert len(cell.samples) == (1 if cell.info.task == "infbench_qa" else 2)
        stop = DATASETS[cell.info.task].newline_stop
        assert cell.info.settings["newline_stop"] is stop
    again = subprocess.run(
        [*command, "dry_run=true"], env=OFFLINE, capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert "26 cells, 0 with work left" in again.stdout


@real
@pytest.mark.slow
def test_lm_evals_own_command_line(tmp_path, checkpoint, data):
    command = [sys.executable, "-m", "lm_eval", "run", "--include_path", str(ROOT / "tasks")]
    command += ["--model", "hf", "--model_args", f"pretrained={checkpoint},dtype=float32"]
    command += ["--tasks", "helmet_icl_8k,helmet_rerank_8k", "--device", "cpu"]
    command += ["--batch_size", "1", "--output_path", str(tmp_path)]
    hub = shutil.copytree(data / "data" / "hub", tmp_path / "hub")
    labels = [{"text": f"what is {i}?", "coarse_label": i % 6, "fine_label": i % 50} for i in range(90)]
    for split in ("train", "test"):  # there is no real subset of TREC
        layout.write_jsonl(hub / "trec" / f"{split}.jsonl", labels)
    metadata = {"helmet_dir": str(data), "hub_dir": str(hub), "samples": 1}
    command += ["--metadata", json.dumps(metadata)]
    done = subprocess.run(
        command, env=OFFLINE, capture_output=True, text=True, timeout=280, cwd=tmp_path
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


@real
def test_the_length_of_a_named_task_holds_against_the_command_line(checkpoint, data):
    given = {"helmet_dir": str(data), "samples": 1, "pretrained": str(checkpoint)}
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


def settings(checkpoint, tmp_path, **changes):
    given = {
        "out": str(tmp_path / "out"),
        "model": ModelSettings(path=str(checkpoint), name="tiny"),
        "methods": ["full"],
        "tasks": ["icl_banking77", "json_kv"],
        "lengths": [8192],
        "samples": 600,
        "device": "cpu",
        "data": DataSettings(),
    }
    return RunSettings(**{**given, **changes})


@real
def test_the_cell_knows_its_files_switches_and_official_size(tmp_path, checkpoint, data):
    made = settings(checkpoint, tmp_path, data=DataSettings(helmet_dir=str(data)))
    plan = make_plan(made)
    assert plan.problems == []
    icl, kv = plan.cells
    assert set(icl.settings["data"]["files"]) == {"train.jsonl", "test.jsonl"}
    assert (icl.settings["newline_stop"], kv.settings["newline_stop"]) == (True, False)
    assert [wanted_rows(cell, 600) for cell in plan.cells] == [500, 100]
    assert [wanted_rows(cell, 7) for cell in plan.cells] == [7, 7]
    hub = DataSettings(hub_dir=str(data / "data" / "hub"))
    other, generated = make_plan(settings(checkpoint, tmp_path, data=hub)).cells
    assert other.settings["data"]["source"] == "helmet"
    assert generated.settings["data"]["source"] == "generated"
    assert wanted_rows(generated, 600) == 600
    off = make_plan(settings(checkpoint, tmp_path, data=hub, newline_stop=False)).cells
    assert off[0].settings["newline_stop"] is False


def cell(length, method="full", task="kilt_nq"):
    return SimpleNamespace(
        length=length,
        method=SimpleNamespace(name=method, label=method),
        model=SimpleNamespace(device=Device("cpu", "dev"), name="m"),
        task=SimpleNamespace(name=task),
    )


def test_cost_counts_what_was_measured_and_names_what_was_not():
    work = [(cell(8192), 10), (cell(16384), 5), (cell(8192, "rr"), 3)]
    found = estimate(work, {("dev", "full"): {8192: 36.0}})
    assert (found.prompts, found.tokens) == (18, 10 * 8192 + 5 * 16384 + 3 * 8192)
    assert found.hours == pytest.approx((10 * 36 + 5 * 36 * 4) / 3600)
    assert (found.unknown, found.scaled) == (3, 5)
    line = describe(found)
    assert "18 prompts" in line and "3 prompts of unmeasured methods" in line and "5 scaled" in line
    assert "hours unknown" in describe(estimate(work, {}))
    assert seconds_at(4096, {8192: 8.0}) == 4.0 and seconds_at(8192, {8192: 8.0}) == 8.0


def test_times_come_from_tables_and_from_the_store(tmp_path):
    lines = [
        "level,model,method,backend,length,median_ms,device",
        "prefill,llama31_8b,full,dense:fa2,8192,1700,H",
        "prefill,llama31_8b,full,dense:cudnn,8192,1500,H",
        "prefill,llama31_8b,rr,,8192,,H",
        "layer,llama31_8b,rr,triton,8192,20,H",
        "prefill,qwen25_7b,full,dense:cudnn,8192,1400,H",
    ]
    (tmp_path / "latency_h200").mkdir()
    (tmp_path / "latency_h200/latency.csv").write_text("\n".join(lines) + "\n")
    assert table_times("Llama-3.1-8B-Instruct", tmp_path) == {("H", "full"): {8192: 1.5}}
    assert table_times("probe", tmp_path) == {}
    from tests.fabricate import FULL, write_cell

    write_cell(tmp_path / "out", FULL, [1.0, 0.0])
    assert known_times(tmp_path / "out", "probe")[("cpu", "full")] == {4096: 1.5}
    assert ("cpu", "full") not in known_times(tmp_path / "out", "other")


def test_yarn_is_laid_over_the_checkpoint(tmp_path, checkpoint):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert max_positions(read_config(checkpoint, rope)) == 131072
    plain, stretched = (
        load_model(checkpoint, dtype="float32", device=Device("cpu", "cpu"), rope=one).model
        for one in (None, rope)
    )
    assert stretched.config.rope_parameters["rope_type"] == "yarn"
    ids = torch.arange(64)[None]
    with torch.no_grad():
        assert not torch.equal(plain(ids).logits, stretched(ids).logits)
    keys = []
    for one in (None, rope):
        model = ModelSettings(str(checkpoint), rope=one)
        plan = make_plan(settings(checkpoint, tmp_path, tasks=["json_kv"], model=model))
        keys.append(plan.cells[0].settings["model"])
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"newline_stop": "maybe"}, "newline_stop=maybe"),
        ({"data": {"chat": "sometimes"}}, r"data\.chat=sometimes"),
        ({"data": {"clinic_split": "dev"}}, r"data\.clinic_split=dev"),
        ({"model": {"path": "x", "rope": {"factor": 4}}}, r"model\.rope"),
    ],
)
def test_settings_are_checked(change, message):
    good = {
        "out": "o",
        "model": {"path": "x"},
        "methods": ["full"],
        "tasks": ["json_kv"],
        "lengths": [8],
        "samples": 1,
    }
    with pytest.raises(ConfigError, match=message):
        read_settings({**good, **change})


def test_model_configs_and_experiments_compose():
    for name in ("llama31_8b", "qwen25_7b", "qwen25_7b_yarn"):
        config = yaml.safe_load(Path(ROOT / "conf" / "model" / f"{name}.yaml").read_text())
        assert set(config) == {"path", "name", "trust_remote_code", "allow_extrapolation", "rope"}
    for name in ("helmet", "helmet_128k"):
        command = [sys.executable, "-m", "rr_bench", f"+experiment={name}", "--cfg", "job"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        composed = yaml.safe_load(done.stdout)
        assert composed["samples"] == 600 and 131072 in composed["lengths"]
        for task in composed["tasks"]:
            assert expand_task(task)
