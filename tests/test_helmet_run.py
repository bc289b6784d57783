"""HELMET from the command line: a whole offline run, lm-eval's own CLI, the definitions, the cost."""

import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from rr_bench import ROOT
from rr_bench.config.errors import ConfigError
from rr_bench.config.reading import read_settings
from rr_bench.config.schema import DataSettings, ModelSettings, RunSettings
from rr_bench.model.loading import load_model
from rr_bench.plan.cells import make_plan
from rr_bench.plan.cost import cost_line, wanted_rows
from rr_bench.plan.model_facts import Device, max_positions, read_config
from rr_bench.store.cells import cell_key
from rr_bench.tasks.helmet_table import DATASETS
from tests import helmet_layout as layout
from tests.fabricate import FULL, cells_of, write_cell


def run(*arguments):
    """``python -m rr_bench`` in a process of its own, without the network."""
    command = [sys.executable, "-m", "rr_bench", *arguments, "device=cpu"]
    done = subprocess.run(
        command, env=layout.OFFLINE, capture_output=True, text=True, timeout=280, cwd=ROOT
    )
    assert "Traceback" not in done.stderr
    return done


@layout.real
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
    cells = cells_of(tmp_path)
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
    (failed,) = (cell for cell in cells_of(out) if cell.info.task == "infbench_choice")
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


def test_cost_counts_what_was_measured_and_names_what_was_not(tmp_path):
    def work(length, label="full"):
        return SimpleNamespace(
            length=length,
            method=SimpleNamespace(label=label),
            model=SimpleNamespace(fingerprint="0123abcd"),
        )

    planned = [(work(4096), 10), (work(4096, "rr"), 3)]
    assert "13 prompts" in cost_line(planned, tmp_path)
    assert "hours unknown" in cost_line(planned, tmp_path)
    write_cell(tmp_path, FULL, [1.0, 0.0])  # 1.5 s a sample
    line = cost_line([(work(4096), 2400), (work(4096, "rr"), 3)], tmp_path)
    assert "1.00 hours" in line and "3 prompts of unmeasured cells" in line


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
        keys.append(cell_key(plan.cells[0].settings))
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
