"""Failures of whole runs stay local: one line each, and the other cells finish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

import rr_bench.run.run
from method.attention import SparsePrefill
from rr_bench.config.schema import DataSettings, ModelSettings
from rr_bench.run.run import run
from rr_bench.run.samples import Samples
from rr_bench.run.session import Session
from rr_bench.store.records import read_line, sample_line
from tests.runs import errors, lines, reported, summary
from tests.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("undrawn")


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


def test_a_locked_cell_is_waited_for_while_others_run(make, monkeypatch, capsys):
    monkeypatch.setattr("rr_bench.run.agenda.RETRY_S", 0.01)
    settings = make(samples=1)
    assert run(settings) == 0
    (folder,) = Path(settings.out).glob("cells/*full*")
    lock = FileLock(folder / "LOCK")
    lock.acquire()
    original = Session.run_cell

    def run_cell(self, cell, *rest):
        original(self, cell, *rest)
        if not cell.method.dense:
            lock.release()

    monkeypatch.setattr(Session, "run_cell", run_cell)
    settings.samples = 2
    capsys.readouterr()
    assert run(settings) == 0
    shown = capsys.readouterr()
    assert "waiting for cells that another process writes: tiny recall_prefill 2048 full" in shown.out
    assert lines(settings) == {"full": 2, "rr": 2} and "error:" not in shown.err


def test_a_cell_that_another_process_has_done_meanwhile_is_not_run(make, monkeypatch, capsys):
    done = make(samples=1, methods=["full"])
    original = rr_bench.run.run.run_here

    def late(settings, *rest):
        if settings is not done:
            assert run(done) == 0
        original(settings, *rest)

    monkeypatch.setattr("rr_bench.run.run.run_here", late)
    assert run(make(samples=1, methods=["full"])) == 0
    assert capsys.readouterr().out.count("done: ") == 1


def test_one_failing_sample_blocks_no_other(make, monkeypatch, capsys):
    original = Samples._score

    def score(self, rows):
        if rows[0][0] == 0 and not self.lm.prefill.method.dense:
            raise ValueError("this row is broken")
        return original(self, rows)

    settings = make(samples=3)
    monkeypatch.setattr(Samples, "_score", score)
    for _ in range(2):
        assert run(settings) == 1
        (line,) = errors(capsys)
        assert "this row is broken" in line
        table = summary(settings).set_index("family")
        assert table.loc["rr", ["n", "failed", "status"]].tolist() == [2, 1, "done"]
    monkeypatch.undo()
    assert run(settings) == 0
    assert summary(settings).set_index("family").loc["rr", ["n", "failed"]].tolist() == [3, 0]


def test_a_lost_device_ends_the_run_with_what_it_has(make, monkeypatch, capsys):
    def score(self, rows):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Samples, "_score", score)
    assert run(make(samples=2)) == 1
    (line,) = errors(capsys)
    assert "illegal memory access" in line


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_an_output_that_cannot_be_written_is_one_error(make, capsys, tmp_path, kind):
    (tmp_path / "file").write_text("")
    out = {"file": "file", "below a file": "file/out", "read-only": "/proc/nowhere"}[kind]
    assert run(make(out=str(tmp_path / out))) == 1
    (line,) = errors(capsys)
    assert "out=" in line and "choose a folder" in line


def test_a_disk_that_is_full_is_one_error(make, monkeypatch, capsys):
    def full(file, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rr_bench.store.cells.append_line", full)
    assert run(make(samples=1, methods=["full"])) == 1
    assert any("No space left" in line for line in errors(capsys))


def test_a_comparison_that_is_refused_is_an_exit_status(make, capsys):
    assert run(make(methods=["rr"], samples=1)) == 1
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("problem:")]
    assert "add full to methods" in line and "add full" not in shown.out


def test_a_changed_prompt_stops_the_cell(make, capsys):
    settings = make(methods=["full"], samples=1)
    assert run(settings) == 0
    (file,) = Path(settings.out).glob("cells/*/samples.jsonl")
    cell, record = read_line(file.read_text(), "samples.jsonl:1")
    file.write_text(sample_line(replace(record, prompt_sha="0" * 64), cell) + "\n")
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
