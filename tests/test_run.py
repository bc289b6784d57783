"""Whole runs on a tiny model: resume after a kill, failures that stay local, nothing done twice."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import rr_bench.session
from method.attention import SparsePrefill
from rr_bench.config import ROOT, DataSettings, ModelSettings, RunSettings
from rr_bench.report import write_report
from rr_bench.run import INTERRUPTED, run
from rr_bench.store import read_cells
from tests.tiny import tiny_llama

TIMES = ["prefill_s"]


@pytest.fixture
def make(checkpoint, tmp_path):
    """Settings of a small run; keywords override."""

    def settings(**changes) -> RunSettings:
        defaults = {
            "out": str(tmp_path / "out"),
            "model": ModelSettings(path=str(checkpoint), name="tiny"),
            "methods": ["full", {"name": "rr", "tau": 0.5}],
            "tasks": ["recall_prefill"],
            "lengths": [2048],
            "samples": 2,
            "device": "cpu",
            "data": DataSettings(),
        }
        return RunSettings(**{**defaults, **changes})

    return settings


def summary(settings: RunSettings) -> pd.DataFrame:
    return pd.read_csv(Path(settings.out) / "summary.csv").drop(columns=TIMES)


def lines(settings: RunSettings) -> dict[str, int]:
    """Stored lines of samples by method."""
    found = {}
    for file in Path(settings.out).glob("cells/*/samples.jsonl"):
        info = json.loads((file.parent / "cell.json").read_text())
        found[info["method"]["name"]] = len(file.read_text().splitlines())
    return found


def reported(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Errors, and what the report had to leave out."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith(("error:", "problem:"))]


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]


def test_a_run_scores_stores_and_reports(make, capsys):
    settings = make(tasks=["json_kv", "recall_prefill"])
    assert run(settings) == 0
    table = summary(settings)
    assert sorted(table["task"].unique()) == ["json_kv", "recall_prefill"]
    assert set(table["n"]) == {2} and set(table["failed"]) == {0}
    assert (table.loc[table["method"] == "full", "density"] == 100).all()
    assert (table.loc[table["method"] != "full", "density"] < 100).all()
    sample = read_cells(settings.out)[0].samples[0]
    assert 1024 < sample.input_tokens <= sample.budget
    assert sample.prefill_s > 0 and len(sample.density_by_layer) == 2
    out = capsys.readouterr().out
    assert "summary.csv" in out and "figures" in out


def test_questions_of_recall_prefill_are_counted(make):
    settings = make(methods=["full"], samples=1)
    assert run(settings) == 0
    sample = read_cells(settings.out)[0].samples[0]
    assert sample.questions == len(sample.golds) == len(sample.output) > 1
    assert sample.score == sample.output.count("1") / sample.questions


def test_a_second_run_does_no_model_work(make, monkeypatch, capsys):
    settings = make(methods=["full"])
    assert run(settings) == 0
    first = summary(settings)

    def refuse(*args):
        raise AssertionError("the model must not be loaded again")

    monkeypatch.setattr(rr_bench.session, "Session", refuse)
    assert run(settings) == 0
    assert "1 cells, 0 with work left" in capsys.readouterr().out
    pd.testing.assert_frame_equal(summary(settings), first)


def test_more_samples_keep_what_is_done(make, monkeypatch):
    assert run(make(methods=["full"], samples=1)) == 0
    scored = _count_samples(monkeypatch)
    assert run(make(methods=["full"], samples=3)) == 0
    assert len(scored) == 2


@pytest.mark.parametrize("stored", [1, 3])
def test_killed_and_resumed_gives_the_same_summary(make, monkeypatch, tmp_path, stored):
    whole = make(out=str(tmp_path / "whole"))
    assert run(whole) == 0
    halves = make(out=str(tmp_path / "halves"))
    with monkeypatch.context() as patch:
        _count_samples(patch, stop_after=stored)
        assert run(halves) == INTERRUPTED
    assert sum(lines(halves).values()) == stored
    torn = next(Path(halves.out).glob("cells/*/samples.jsonl"))
    torn.write_bytes(torn.read_bytes() + b'{"schema": 1, "uid": "half a li')
    scored = _count_samples(monkeypatch)
    assert run(halves) == 0
    assert len(scored) == 4 - stored
    pd.testing.assert_frame_equal(summary(halves), summary(whole))


def test_sigterm_frees_the_lock_and_the_run_goes_on(make, checkpoint):
    settings = make(samples=40, methods=["full"])
    command = [sys.executable, "-m", "rr_bench", f"model={checkpoint}", "device=cpu", "methods=[full]"]
    command += ["tasks=[recall_prefill]", "lengths=[2048]", "samples=40", f"out={settings.out}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not sum(lines(settings).values()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    stored = sum(lines(settings).values())
    assert process.returncode == INTERRUPTED and b"interrupted" in out
    assert 0 < stored < 40
    assert not list(Path(settings.out).glob("cells/*/LOCK"))
    settings.samples = stored + 1
    assert run(settings) == 0
    assert lines(settings) == {"full": stored + 1}


def _count_samples(monkeypatch, stop_after: int | None = None) -> list[str]:
    """Note every scored sample; raise KeyboardInterrupt instead of scoring one more."""
    scored: list[str] = []
    original = rr_bench.session.Session._score

    def score(self, task, doc_id, doc):
        if len(scored) == stop_after:
            raise KeyboardInterrupt
        scored.append(doc["uid"])
        return original(self, task, doc_id, doc)

    monkeypatch.setattr(rr_bench.session.Session, "_score", score)
    return scored


def test_out_of_memory_at_one_length_costs_that_length_only(make, monkeypatch, capsys):
    original = SparsePrefill.__call__

    def attend(self, query, *rest, **settings):
        if query.shape[2] > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64 GiB\nmore text")
        return original(self, query, *rest, **settings)

    monkeypatch.setattr(SparsePrefill, "__call__", attend)
    settings = make(methods=["full"], lengths=[4096, 2048], samples=1)
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "lengths=4096" in line and "64 GiB" in line and "more text" not in line
    table = summary(settings).set_index("length")
    assert table.loc[2048, ["n", "failed"]].tolist() == [1, 0]
    assert table.loc[4096, ["n", "failed"]].tolist() == [0, 1]
    monkeypatch.undo()
    assert run(settings) == 0
    assert summary(settings)["n"].tolist() == [1, 1]


def test_a_locked_cell_is_one_error_and_is_left_alone(make, capsys):
    settings = make(methods=["full"], samples=1)
    assert run(settings) == 0
    (folder,) = Path(settings.out).glob("cells/*")
    lock = {"host": "elsewhere", "pid": 1, "started": None}
    (folder / "LOCK").write_text(json.dumps(lock))
    settings.samples = 2
    capsys.readouterr()
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "held by process 1 on elsewhere" in line
    assert not (folder / "errors.jsonl").exists()


def test_a_comparison_that_is_refused_is_an_exit_status(make, capsys):
    assert run(make(methods=["rr"], samples=1)) == 1
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("problem:")]
    assert "add full to methods" in line and "add full" not in shown.out


def test_a_task_with_fewer_rows_than_samples_is_done(make, monkeypatch, capsys):
    original = rr_bench.session.Session._load_task

    def two_rows(self, cell):
        task = original(self, cell)
        task.dataset["test"] = task.dataset["test"].select(range(2))
        return task

    monkeypatch.setattr(rr_bench.session.Session, "_load_task", two_rows)
    settings = make(methods=["full"], samples=5)
    assert run(settings) == 0
    assert summary(settings)["n"].tolist() == [2] and summary(settings)["status"].tolist() == ["done"]
    capsys.readouterr()
    assert run(settings) == 0
    assert "1 cells, 0 with work left" in capsys.readouterr().out


def test_slices_together_make_the_whole_table(make, tmp_path, capsys):
    whole, parts = make(out=str(tmp_path / "whole")), make(out=str(tmp_path / "parts"))
    assert run(whole) == 0
    for part in ("1/2", "2/2"):
        assert run(make(out=parts.out, slice=part)) == 0
    assert not (Path(parts.out) / "summary.csv").exists()
    write_report(parts.out)
    pd.testing.assert_frame_equal(summary(parts), summary(whole))


def test_a_killed_process_loses_nothing(make, checkpoint, tmp_path):
    whole, killed = make(out=str(tmp_path / "whole")), make(out=str(tmp_path / "killed"))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "rr_bench", f"model={checkpoint}", "model.name=tiny", "device=cpu"),
            *("methods=[full,{name: rr, tau: 0.5}]", "tasks=[recall_prefill]", "lengths=[2048]"),
            *("samples=40", f"out={killed.out}"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while sum(lines(killed).values()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    stored = sum(lines(killed).values())
    assert 2 <= stored < 80 and list(Path(killed.out).glob("cells/*/LOCK"))
    whole.samples = killed.samples = stored + 1
    assert run(killed) == 0 and run(whole) == 0
    pd.testing.assert_frame_equal(summary(killed), summary(whole))


def test_stored_files_name_nothing_of_this_machine(make, monkeypatch):
    def fail(self, task, doc_id, doc):
        raise OSError(f"cannot read {self.model.path}/weights")

    settings = make(samples=1, methods=["full"])
    assert run(settings) == 0
    monkeypatch.setattr(rr_bench.session.Session, "_score", fail)
    settings.samples = 2
    assert run(settings) == 1
    files = [
        path for path in Path(settings.out).rglob("*") if path.suffix in (".json", ".jsonl", ".md")
    ]
    assert len(files) >= 4
    private = (settings.out, Path(settings.model.path).parent, ROOT, platform.node())
    for path in files:
        text = path.read_text()
        assert not [
            name for name in private if re.search(rf"(?<!\w){re.escape(str(name))}(?!\w)", text)
        ], path.name


def test_a_changed_prompt_stops_the_cell(make, capsys):
    settings = make(methods=["full"], samples=1)
    assert run(settings) == 0
    (file,) = Path(settings.out).glob("cells/*/samples.jsonl")
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "prompt_sha": "0" * 64}) + "\n")
    settings.samples = 2
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "another prompt" in line
    assert "another prompt" in (file.parent / "errors.jsonl").read_text()


def test_too_small_a_length_is_named_and_the_other_runs(make, capsys):
    settings = make(methods=["full"], tasks=["json_kv"], lengths=[150, 2048], samples=1)
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "lengths" in line and "150" in line
    assert summary(settings).set_index("length").loc[2048, "n"] == 1


def test_length_beyond_the_model_is_named_and_the_other_runs(make, capsys, tmp_path):
    short = tiny_llama(tmp_path / "short", max_position_embeddings=2048, hidden_size=64)
    model = ModelSettings(path=str(short))
    settings = make(model=model, methods=["full"], lengths=[2048, 4096], samples=1)
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "lengths=4096" in line and "model.allow_extrapolation" in line
    settings.model.allow_extrapolation = True
    assert run(settings) == 0
    assert summary(settings)["n"].tolist() == [1, 1]


def test_bad_model_path_is_one_error(make, capsys):
    assert run(make(model=ModelSettings(path="/no/such/model"))) == 1
    (line,) = errors(capsys)
    assert "model.path=/no/such/model" in line


def test_a_checkpoint_that_does_not_load_is_one_error(make, capsys, tmp_path, checkpoint):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(b"" if file.suffix == ".safetensors" else file.read_bytes())
    assert run(make(model=ModelSettings(path=str(tmp_path)))) == 1
    (line,) = errors(capsys)
    assert "model.path" in line and "does not load" in line


def test_a_checkpoint_without_all_weights_is_refused(make, capsys, tmp_path, checkpoint):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert run(make(model=ModelSettings(path=str(tmp_path)))) == 1
    (line,) = errors(capsys)
    assert "1 weights are not in its files" in line and "up_proj" in line


def test_unknown_method_is_one_error_and_the_others_finish(make, capsys):
    settings = make(methods=["full", "rrr"], samples=1)
    assert run(settings) == 1
    (line,) = reported(capsys)
    assert "unknown method 'rrr'" in line and "did you mean 'rr'" in line
    assert summary(settings)["n"].tolist() == [1]


def test_a_refused_method_setting_is_one_error_and_the_others_finish(make, capsys):
    settings = make(methods=[{"name": "rr", "tau": 7}, "full"], samples=1)
    assert run(settings) == 1
    (line,) = errors(capsys)
    assert "tau=7" in line
    assert summary(settings).query("n > 0")["method"].tolist() == ["full"]


def test_a_corrupt_line_stops_its_cell_only_and_is_not_overwritten(make, capsys):
    settings = make(samples=1)
    assert run(settings) == 0
    full, *_ = [f for f in Path(settings.out).glob("cells/*/samples.jsonl") if "full" in f.parent.name]
    broken = "not json\n" + full.read_text()
    full.write_text(broken)
    capsys.readouterr()
    settings.samples = 2
    assert run(settings) == 1
    found = reported(capsys)
    assert f"{full}:1" in found[0]
    assert len(found) == 2 and "no dense cell" in found[1]
    assert full.read_text() == broken
    assert lines(settings)["rr"] == 2


def test_dry_run_prints_the_plan_and_writes_nothing(make, capsys):
    settings = make(dry_run=True)
    assert run(settings) == 0
    assert "2 cells, 2 with work left" in capsys.readouterr().out
    assert not Path(settings.out).exists()


def test_keep_policy_reaches_the_method_and_the_record(make):
    settings = make(samples=1, keep={"sink": False, "diagonal": True, "last_row": False})
    assert run(settings) == 0
    (keep,) = [c.info.method["keep"] for c in read_cells(settings.out) if not c.info.method["dense"]]
    assert keep == {"name": "custom", "sink": False, "diagonal": True, "last_row": False}


def test_helmet_files_are_used_when_given(make, tmp_path):
    rows = Path(__file__).resolve().parents[2] / "shared/data/json_kv_k75.jsonl"
    if not rows.is_file():
        pytest.skip("sample rows of HELMET are not beside the repository")
    folder = tmp_path / "helmet/data/json_kv"
    folder.mkdir(parents=True)
    (folder / "test_k50_dep6.jsonl").write_text("".join(rows.open().readlines()[:3]))
    data = DataSettings(helmet_dir=str(tmp_path / "helmet"))
    settings = make(methods=["full"], tasks=["json_kv"], lengths=[4096], samples=1, data=data)
    assert run(settings) == 0
    cell = read_cells(settings.out)[0]
    assert cell.info.source == "helmet"
    assert cell.info.settings["data"]["files"].keys() == {"test_k50_dep6.jsonl"}


def test_a_corrupt_line_of_a_data_file_names_the_setting_and_the_other_cells_finish(
    make, tmp_path, capsys
):
    folder = tmp_path / "helmet/data/json_kv"
    folder.mkdir(parents=True)
    (folder / "test_k50_dep6.jsonl").write_text('{"broken": \n')
    data = DataSettings(helmet_dir=str(tmp_path / "helmet"))
    settings = make(methods=["full"], tasks=["json_kv"], lengths=[4096], samples=1, data=data)
    assert run(settings) == 1
    (line,) = reported(capsys)
    assert "data.helmet_dir" in line and "test_k50_dep6.jsonl:1" in line
    assert summary(settings)["status"].tolist() == ["failed"]
    assert str(tmp_path) not in next(Path(settings.out).glob("cells/*/errors.jsonl")).read_text()
