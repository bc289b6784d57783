"""W&B logging: off by default, refused early without the package, offline without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import rr_bench.run.wandb_log
from rr_bench.config.schema import ModelSettings, RunSettings, WandbSettings
from rr_bench.report import write_report
from rr_bench.run.run import run
from rr_bench.run.wandb_log import cell_metrics, log_report
from tests.fabricate import FULL, RR, write_cell


def settings(out: Path, mode: str) -> RunSettings:
    return RunSettings(
        out=str(out),
        model=ModelSettings(path="/no/such/model"),
        methods=["full"],
        tasks=["json_kv"],
        lengths=[2048],
        samples=1,
        wandb=WandbSettings(mode=mode),
    )


def test_without_the_package_the_run_stops_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rr_bench.run.wandb_log, "find_spec", lambda name: None)
    assert run(settings(tmp_path, "offline")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "wandb.mode=offline" in line and ".[wandb]" in line
    assert not any(tmp_path.iterdir())


def test_online_without_a_key_stops_before_any_work(tmp_path, monkeypatch, capsys):
    keyless = SimpleNamespace(api=SimpleNamespace(api_key=None))
    monkeypatch.setattr(rr_bench.run.wandb_log, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "wandb", keyless)
    assert run(settings(tmp_path, "online")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "WANDB_API_KEY" in line and "wandb=offline" in line
    assert not any(tmp_path.iterdir())


def test_the_logged_settings_name_no_place_of_this_machine(tmp_path, monkeypatch):
    logged = {}

    class Stop(Exception):
        pass

    def init(**options):
        logged.update(options)
        raise Stop

    fake = SimpleNamespace(init=init, Settings=lambda **options: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_cell(tmp_path, FULL, [1.0])
    run_settings = settings(tmp_path, "offline")
    run_settings.data.helmet_dir = "/mnt/someone/helmet"
    run_settings.model.path = "~/models/llama"
    run_settings.methods = [{"name": "minference", "patterns": ["/home/someone/patterns.json"]}]
    with pytest.raises(Stop):
        log_report(run_settings, write_report(tmp_path))
    text = str(logged["config"])
    assert "helmet" in text and "llama" in text and "patterns.json" in text
    assert "someone" not in text and str(tmp_path) not in text


def test_off_means_that_nothing_is_imported(tmp_path, monkeypatch):
    write_cell(tmp_path, FULL, [1.0])
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it would raise
    assert log_report(settings(tmp_path, "disabled"), write_report(tmp_path)) is None


def test_metrics_leave_undefined_values_out(tmp_path):
    write_cell(tmp_path, FULL, [1.0, 0.5])
    write_cell(tmp_path, RR, [1.0, 0.25], density=0.4)
    metrics = cell_metrics(write_report(tmp_path).frame.to_dict("records"))
    assert metrics["json_kv/4096/rr(tau=0.95)/recovery"] == pytest.approx(100 * 1.25 / 1.5)
    assert metrics["json_kv/4096/rr(tau=0.95)/density"] == pytest.approx(40)
    assert metrics["json_kv/4096/full/n"] == 2
    assert "json_kv/4096/full/recovery" not in metrics


def test_offline_run_is_written_to_files(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    write_cell(tmp_path, FULL, [1.0, 0.5])
    write_cell(tmp_path, RR, [1.0, 0.25], density=0.4)
    folder = log_report(settings(tmp_path, "offline"), write_report(tmp_path))
    assert folder is not None and folder.is_relative_to(tmp_path)
    (stored,) = folder.glob("*.wandb")
    assert b"rr(tau=0.95)/recovery" in stored.read_bytes()
    names = {path.name.partition("_")[0] for path in folder.rglob("files/media/**/*.*")}
    assert {"summary", "recovery"} <= names
