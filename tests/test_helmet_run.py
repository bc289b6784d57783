"""HELMET from the command line: a whole offline run, lm-eval's own CLI, the definitions, the cost."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from rr_bench import ROOT
from rr_bench.config.registry import expand_task
from rr_bench.config.schema import ConfigError, DataSettings, ModelSettings, RunSettings, read_settings
from rr_bench.model.loading import load_model
from rr_bench.plan.cells import make_plan
from rr_bench.plan.cost import describe, estimate, known_times, seconds_at, table_times, wanted_rows
from rr_bench.plan.model_facts import Device, max_positions, read_config
from rr_bench.store.cells import read_cells
from rr_bench.tasks.helmet_table import DATASETS
from tests import helmet_layout as layout


def run(*arguments):
    """``python -m rr_bench`` in a process of its own, without the network."""
    command = [sys.executable, "-m", "rr_bench", *arguments, "device=cpu"]
    done = subprocess.run(
        command, env=layout.OFFLINE, capture_output=True, text=True, timeout=280, cwd=ROOT
    )
    assert "Traceback" not in done.stderr
    return done


@layout.real
@pytest.mark.slow
def test_a_whole_run_offline(tmp_path, smallest, helmet_dir):
    arguments = ["+experiment=helmet", "lengths=[8192]", "samples=2", f"model={smallest}"]
    arguments += [f"data.helmet_dir={helmet_dir}", f"out={tmp_path}"]
    arguments += ["methods=[full,{name: rr, tau: 0.5, stride: 8}]"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "estimate: 72 prompts" in done.stdout  # infbench_qa has one row, which shows only later
    frame = pd.read_csv(tmp_path / "categories.csv")
    full = frame[(frame["method"] == "full") & (frame["length"] == 8192)].set_index("column")
    coverage = {name: f"{row['have']}/{row['of']}" for name, row in full.iterrows()}
    assert coverage == {
        **{"Recall": "4/4", "RAG": "4/4", "ICL": "5/5", "Cite": "2/6", "Re-rank": "1/1"},
        **{"LongQA-2": "2/2", "LongQA": "2/3", "Summ": "0/2"},
        **{"Avg. (RR)": "5/6", "Avg. (HELMET)": "4/7"},
        **{"cite_correctness": "2/2", "longqa_rouge": "2/3", "summ_rouge": "0/2"},
    }
    assert set(full[full["value"].isna()].index) == {
        *("Cite", "LongQA", "Summ", "Avg. (RR)", "Avg. (HELMET)", "longqa_rouge", "summ_rouge")
    }
    page = (tmp_path / "categories.md").read_text()
    assert "kilt_hotpotqa 8K: the gold evidence of 2 samples was cut off" in page
    assert "json_kv 8K: rows have fields of no known layout: source_line (24)" in page
    assert str(tmp_path) not in page and "not run" not in page
    cells = read_cells(tmp_path)
    assert {cell.info.task for cell in cells} == {
        d.name for d in DATASETS.values() if d.category != "summ" and d.name != "narrativeqa"
    }
    for cell in cells:
        assert cell.data["rows_in_files"] and cell.done == 2
        assert cell.env["repetition_penalty"] == 1.0
        assert len(cell.samples) == (1 if cell.info.task == "infbench_qa" else 2)
        stop = DATASETS[cell.info.task].newline_stop
        assert cell.info.settings["newline_stop"] is stop
    lost = next(c.data["gold_lost"] for c in cells if c.info.task == "kilt_hotpotqa")
    assert lost["count"] == len(lost["uids"]) == 2
    assert "36 cells, 0 with work left" in run(*arguments, "dry_run=true").stdout


@layout.real
@pytest.mark.slow
def test_what_is_missing_is_named_and_the_rest_runs(tmp_path, smallest):
    helmet_dir = layout.lay_out(tmp_path / "helmet")
    missing = ["niah_mk_2", "niah_mk_3", "kilt_popqa_3", "icl_trec_coarse", "icl_trec_fine"]
    tasks = ["json_kv", *missing, "infbench_choice"]
    out = tmp_path / "out"
    arguments = ["+experiment=helmet", "lengths=[8192]", "samples=1", f"model={smallest}"]
    arguments += [f"data.helmet_dir={helmet_dir}", f"out={out}", "methods=[full]", f"tasks={tasks}"]
    arguments += ["data.recall=files"]
    done = run(*arguments)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert [line.partition("plan: ")[2].split(" ")[0] for line in errors[:-1]] == missing
    floor = "all 16 documents are under the floor of 65536 Llama-2 tokens"
    assert floor in errors[-1]
    page = (out / "categories.md").read_text()
    for name in missing:
        assert f"not run: {name} at lengths=8192" in page
    assert str(tmp_path) not in page
    frame = pd.read_csv(out / "categories.csv").set_index(["column", "length"])
    assert frame.loc[("Recall", 8192), "have"] == 1 and frame.loc[("LongQA-2", 8192), "have"] == 0
    (failed,) = (cell for cell in read_cells(out) if cell.info.task == "infbench_choice")
    assert floor in failed.errors[0]["message"]


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


@layout.real
def test_the_cell_knows_its_files_switches_and_official_size(tmp_path, smallest, helmet_dir):
    made = settings(smallest, tmp_path, data=DataSettings(helmet_dir=str(helmet_dir)))
    plan = make_plan(made)
    assert plan.problems == []
    icl, kv = plan.cells
    assert set(icl.settings["data"]["files"]) == {"train.jsonl", "test.jsonl"}
    assert (icl.settings["newline_stop"], kv.settings["newline_stop"]) == (True, False)
    assert [wanted_rows(cell, 600) for cell in plan.cells] == [500, 100]
    assert [wanted_rows(cell, 7) for cell in plan.cells] == [7, 7]
    hub = DataSettings(hub_dir=str(helmet_dir / "data" / "hub"))
    other, generated = make_plan(settings(smallest, tmp_path, data=hub)).cells
    assert other.settings["data"]["source"] == "helmet"
    assert generated.settings["data"]["source"] == "generated"
    assert wanted_rows(generated, 600) == 600
    off = make_plan(settings(smallest, tmp_path, data=hub, newline_stop=False)).cells
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


def test_yarn_is_laid_over_the_checkpoint(tmp_path, smallest):
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert max_positions(read_config(smallest, rope)) == 131072
    plain, stretched = (
        load_model(smallest, dtype="float32", device=Device("cpu", "cpu"), rope=one).model
        for one in (None, rope)
    )
    assert stretched.config.rope_parameters["rope_type"] == "yarn"
    ids = torch.arange(64)[None]
    with torch.no_grad():
        assert not torch.equal(plain(ids).logits, stretched(ids).logits)
    keys = []
    for one in (None, rope):
        model = ModelSettings(str(smallest), rope=one)
        plan = make_plan(settings(smallest, tmp_path, tasks=["json_kv"], model=model))
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
