"""Whole runs on a tiny model: scored, stored, resumed after a kill, nothing done twice."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import rr_bench.run.session
from rr_bench import ROOT
from rr_bench.__main__ import main
from rr_bench.config.schema import DataSettings
from rr_bench.report import write_report
from rr_bench.run.run import INTERRUPTED, run
from rr_bench.run.samples import Samples
from tests.fabricate import cells_of
from tests.runs import lines, summary


def test_a_run_scores_stores_and_reports(make, capsys):
    settings = make(tasks=["json_kv", "recall_prefill"])
    assert run(settings) == 0
    table = summary(settings)
    assert sorted(table["task"].unique()) == ["json_kv", "recall_prefill"]
    assert set(table["n"]) == {2} and set(table["failed"]) == {0}
    assert (table.loc[table["method"] == "full", "density"] == 100).all()
    assert (table.loc[table["method"] != "full", "density"] < 100).all()
    sample = cells_of(settings.out)[0].samples[0]
    assert 1024 < sample.input_tokens <= sample.budget
    assert sample.prefill_s > 0 and len(sample.density_by_layer) == 2
    for cell in cells_of(settings.out):
        kept = 600 if cell.info.dense else 0
        assert {len(one.prompt_head + one.prompt_tail) for one in cell.samples} == {kept}
    env = json.loads(next(Path(settings.out).glob("cells/*/env.json")).read_text())
    assert env["decode"] == "generate (no GPU)"
    out = capsys.readouterr().out
    assert "summary.csv" in out and "figures" in out


def test_questions_of_recall_prefill_are_counted(make):
    settings = make(methods=["full"], samples=1)
    assert run(settings) == 0
    sample = cells_of(settings.out)[0].samples[0]
    assert sample.questions == len(sample.golds) == len(sample.output) > 1
    assert sample.score == sample.output.count("1") / sample.questions


@pytest.mark.usefixtures("undrawn")
def test_a_second_run_does_no_model_work(make, monkeypatch, capsys):
    settings = make(methods=["full"])
    assert run(settings) == 0
    first = summary(settings)

    def refuse(*args):
        raise AssertionError("the model must not be loaded again")

    monkeypatch.setattr(rr_bench.run.session, "Session", refuse)
    assert run(settings) == 0
    assert "1 cells, 0 with work left" in capsys.readouterr().out
    pd.testing.assert_frame_equal(summary(settings), first)


@pytest.mark.usefixtures("undrawn")
def test_more_samples_keep_what_is_done(make, monkeypatch):
    assert run(make(methods=["full"], samples=1)) == 0
    scored = _count_samples(monkeypatch)
    assert run(make(methods=["full"], samples=3)) == 0
    assert len(scored) == 2


@pytest.mark.usefixtures("undrawn")
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
    torn.write_bytes(torn.read_bytes() + b'{"schema": 2, "uid": "half a li')
    scored = _count_samples(monkeypatch)
    assert run(halves) == 0
    assert len(scored) == 4 - stored
    pd.testing.assert_frame_equal(summary(halves), summary(whole))


def test_sigterm_ends_a_run_that_can_go_on(make, checkpoint, monkeypatch, capsys, own_signals):
    settings = make(samples=5, methods=["full"])
    command = ["rr_bench", f"model={checkpoint}", "device=cpu", "methods=[full]", "samples=5"]
    command += ["tasks=[recall_prefill]", "lengths=[2048]", f"out={settings.out}"]
    with monkeypatch.context() as patch:
        _count_samples(patch, stop_after=2, stop=partial(os.kill, os.getpid(), signal.SIGTERM))
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == INTERRUPTED and "interrupted" in capsys.readouterr().out
    assert lines(settings) == {"full": 2}
    settings.samples = 3
    assert run(settings) == 0
    assert lines(settings) == {"full": 3}


def _interrupt() -> None:
    raise KeyboardInterrupt


def _count_samples(monkeypatch, stop_after: int | None = None, stop=_interrupt) -> list[str]:
    """Note every scored sample; stop instead of scoring one more."""
    scored: list[str] = []
    original = Samples._score

    def score(self, rows):
        if len(scored) == stop_after:
            stop()
        scored.extend(doc["uid"] for _, doc in rows)
        return original(self, rows)

    monkeypatch.setattr(Samples, "_score", score)
    return scored


@pytest.mark.usefixtures("undrawn")
def test_a_task_with_fewer_rows_than_samples_is_done(make, monkeypatch, capsys):
    original = rr_bench.run.session.Session._load_task

    def two_rows(self, cell):
        task = original(self, cell)
        task.dataset["test"] = task.dataset["test"].select(range(2))
        return task

    monkeypatch.setattr(rr_bench.run.session.Session, "_load_task", two_rows)
    settings = make(methods=["full"], samples=5)
    assert run(settings) == 0
    assert summary(settings)["n"].tolist() == [2] and summary(settings)["status"].tolist() == ["done"]
    capsys.readouterr()
    assert run(settings) == 0
    assert "1 cells, 0 with work left" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_slices_together_make_the_whole_table(make, tmp_path, capsys):
    whole, parts = make(out=str(tmp_path / "whole")), make(out=str(tmp_path / "parts"))
    assert run(whole) == 0
    for part in ("1/2", "2/2"):
        assert run(make(out=parts.out, slice=part)) == 0
    assert not (Path(parts.out) / "summary.csv").exists()
    write_report(parts.out)
    pd.testing.assert_frame_equal(summary(parts), summary(whole))


@pytest.mark.usefixtures("undrawn")
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
    assert 2 <= stored < 80
    whole.samples = killed.samples = stored + 1
    assert run(killed) == 0 and run(whole) == 0
    pd.testing.assert_frame_equal(summary(killed), summary(whole))


def test_stored_files_name_nothing_of_this_machine(make, monkeypatch):
    def fail(self, task, doc_id, doc):
        raise OSError(f"cannot read {self.model.path}/weights")

    settings = make(samples=1, methods=["full"])
    assert run(settings) == 0
    monkeypatch.setattr(Samples, "_score", fail)
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


def test_dry_run_prints_the_plan_and_writes_nothing(make, capsys):
    settings = make(dry_run=True)
    assert run(settings) == 0
    assert "2 cells, 2 with work left" in capsys.readouterr().out
    assert not Path(settings.out).exists()


@pytest.mark.usefixtures("undrawn")
def test_keep_policy_reaches_the_method_and_the_record(make):
    settings = make(samples=1, keep={"sink": False, "diagonal": True, "last_row": False})
    assert run(settings) == 0
    (keep,) = [c.info.settings["keep"] for c in cells_of(settings.out) if not c.info.dense]
    assert keep == {"sink": False, "diagonal": True, "last_row": False}


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
    cell = cells_of(settings.out)[0]
    assert cell.info.source == "helmet"
    assert cell.info.settings["data"]["files"].keys() == {"test_k50_dep6.jsonl"}


@pytest.mark.parametrize("trusted", [True, False])
def test_a_tokenizer_with_code_of_its_own_runs_only_if_trusted(
    make, tmp_path, monkeypatch, capsys, trusted
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    settings = make(tasks=["json_kv"], methods=["full"], lengths=[512], samples=1)
    folder = Path(shutil.copytree(settings.model.path, tmp_path / "custom"))
    (folder / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\n\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    path = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    settings.model.path, settings.model.trust_remote_code = str(folder), trusted
    assert run(settings) == (0 if trusted else 1)
    if not trusted:
        assert "trust_remote_code" in capsys.readouterr().err
