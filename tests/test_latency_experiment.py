"""The latency experiment on a CPU: every row has a status, and nothing unchecked has a time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from method.rr import RRAttention
from rr_bench import report
from rr_bench.config.latency import LEVELS
from rr_bench.config.schema import LatencySettings, ModelSettings, RunSettings
from rr_bench.latency import experiment, gate
from rr_bench.latency.baselines import RIVALS
from rr_bench.latency.experiment import latency
from rr_bench.plan.model_facts import Device
from rr_bench.store.latency_table import COLUMNS, Row, read_rows

LENGTH = 2048
TINY = {
    **{"name": "tiny", "family": "qwen2", "layers": 2, "hidden": 128, "mlp": 128},
    **{"heads": 2, "kv_heads": 1, "dim": 64, "vocab": 256},
}


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Figures of times on a CPU tell nothing, and drawing them takes longer than the times."""
    monkeypatch.setattr(report, "draw_latency_figures", lambda *args: None)


@pytest.fixture
def make(checkpoint, tmp_path):
    """Settings of a small experiment; keywords override those of the group ``latency`` too."""

    def settings(**changes) -> RunSettings:
        quick = {"calls": 1, "budget_ms": 1.0, "models": [TINY], "prefill_methods": ["rr"]}
        own = {key: changes.pop(key) for key in list(changes) if hasattr(LatencySettings(), key)}
        defaults = {
            "out": str(tmp_path / "out"),
            "model": ModelSettings(path=str(checkpoint), name="small"),
            "methods": ["full", "rr", {"name": "streaming", "window": 896}],
            "tasks": ["json_kv"],
            "lengths": [LENGTH],
            "samples": 1,
            "device": "cpu",
            "latency": LatencySettings(**{**quick, **own}),
        }
        return RunSettings(**{**defaults, **changes})

    return settings


def rows_of(settings: RunSettings) -> list[Row]:
    return read_rows(Path(settings.out) / "latency.csv")


def test_all_levels_on_a_cpu(make, capsys):
    settings = make()
    assert latency(settings) == 0
    with (Path(settings.out) / "latency.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    rows = rows_of(settings)
    assert {row.level for row in rows} == set(LEVELS)
    assert {row.inputs for row in rows} == {"random", "mask", "replay", "captured"}
    for row in rows:
        assert row.status in ("done", "missing") and row.device == "cpu"
        assert (row.median_ms is not None) == (row.status == "done") == (row.reason is None)
        assert row.status != "done" or row.p20_ms <= row.median_ms <= row.p80_ms
    done = {(row.level, row.method, row.backend) for row in rows if row.status == "done"}
    assert ("prefill", "rr(tau=0.95)", "torch") in done
    assert ("layer", "streaming(window=896)", "torch") in done
    assert ("attention", "full", "dense:cpu-flash") in done
    assert {row.model for row in rows if row.inputs == "captured"} == {"small"}
    whole = [row for row in rows if (row.level, row.model, row.status) == ("prefill", "small", "done")]
    assert {row.method for row in whole} == {"full", "rr(tau=0.95)"}
    assert all(row.inputs == "captured" and row.density is not None for row in whole)
    reasons = {row.backend: row.reason for row in rows if row.status == "missing"}
    assert any(row.level == "host" and "needs a GPU" in row.reason for row in rows if row.reason)
    assert reasons["dense:cudnn"] == "needs a GPU" and "GPUs only" in reasons["fa4"]
    record = json.loads((Path(settings.out) / "env.json").read_text())
    assert record["device"] == "cpu" and record["groups"][f"both tiny {LENGTH}"]["complete"]
    assert record["groups"][f"both tiny {LENGTH}"]["commit"] == record["commit"]
    out = capsys.readouterr().out
    assert "times on a CPU show that it runs" in out and "rows: " in out
    assert "strongest dense: cpu-flash" in out and "latency.md" in out


def test_graphs_need_a_gpu_and_have_names_of_their_own(make):
    settings = make(levels=["prefill"], captured=False, graph=True, prefill_dense=["cpu-flash"])
    assert latency(settings) == 0
    rows = rows_of(settings)
    assert {row.backend for row in rows if row.method == "full"} == {"dense:cpu-flash+graph"}
    assert any(row.reason == "latency.graph=true needs a GPU" for row in rows)
    assert all(row.median_ms is None for row in rows)


@pytest.mark.gpu
def test_prefills_captured_in_graphs(make):
    shape = {**TINY, "hidden": 512, "heads": 8, "kv_heads": 2}
    settings = make(
        device="cuda", models=[shape], lengths=[4096], levels=["prefill"], graph=True, captured=False
    )
    assert latency(settings) == 0
    done = {(row.method, row.backend) for row in rows_of(settings) if row.status == "done"}
    assert ("full", "dense:cudnn+graph") in done
    assert any(method.startswith("rr") and backend.endswith("+graph") for method, backend in done)


@pytest.mark.gpu
def test_all_levels_on_a_gpu(make):
    shape = {**TINY, "hidden": 512, "heads": 8, "kv_heads": 2}
    settings = make(device="cuda", models=[shape], lengths=[4096], calls=3, budget_ms=500.0)
    assert latency(settings) == 0
    rows = rows_of(settings)
    timed = {(row.level, row.backend): row for row in rows if row.status == "done"}
    assert ("attention", "flex_attention") in timed
    assert any(level == "host" for level, _ in timed)
    for level in ("attention", "both", "layer", "prefill"):
        assert (level, "dense:cudnn") in timed and (level, "dense:fa2") in timed
    for row in rows:
        if row.status == "done" and row.level in ("attention", "selection", "both"):
            assert row.peak_extra_mib is not None and row.n == 3


def test_a_second_run_has_nothing_to_do(make, monkeypatch, capsys):
    settings = make(levels=["selection"], captured=False)
    assert latency(settings) == 0
    before = rows_of(settings)
    monkeypatch.setattr(experiment, "run_group", lambda *args: pytest.fail("measured again"))
    assert latency(settings) == 0
    assert rows_of(settings) == before
    assert "1 groups of rows on cpu, 0 to measure" in capsys.readouterr().out


def test_other_settings_are_measured_again_in_place(make):
    settings = make(levels=["selection", "ceiling"], captured=False)
    assert latency(settings) == 0
    changed = replace(settings, methods=["full", {"name": "rr", "tau": 0.5}])
    changed.latency.levels = ["selection"]
    changed.latency.prefill_methods = []
    assert latency(changed) == 0
    found = [(row.level, row.method) for row in rows_of(changed)]
    assert sorted(found) == [
        ("ceiling", "copy"),
        ("ceiling", "matmul"),
        ("selection", "rr(tau=0.5)"),
    ]


def test_time_limit_leaves_rows_missing_until_there_is_time(make):
    settings = make(levels=["selection"], captured=False, budget_s={"selection": -1})
    assert latency(settings) == 0
    assert {(row.status, row.reason) for row in rows_of(settings)} == {("missing", "time limit")}
    settings.latency.budget_s = None
    assert latency(settings) == 0
    assert {row.status for row in rows_of(settings)} == {"done"}
    # Another limit later does not take the times away.
    settings.latency.budget_s = -1
    settings.latency.calls = 2
    assert latency(settings) == 0
    assert {row.status for row in rows_of(settings)} == {"done"}


def test_a_method_that_raises_has_a_reason_and_no_numbers(make, monkeypatch, capsys):
    real = RRAttention.select

    def broken(self, query, key, **given):
        if self.estimator == "auto":
            raise RuntimeError("no such kernel in /home/someone/method.py")
        return real(self, query, key, **given)

    monkeypatch.setattr(RRAttention, "select", broken)
    settings = make(captured=False)
    assert latency(settings) == 1
    rows = [row for row in rows_of(settings) if row.method.startswith("rr") and row.level != "host"]
    assert {row.level for row in rows} == {"attention", "selection", "both", "layer", "prefill"}
    for row in rows:
        assert row.status == "failed" and row.reason == "RuntimeError: no such kernel in …/method.py"
        assert row.median_ms is row.n is row.tflops is row.peak_extra_mib is None
    others = [
        row for row in rows_of(settings) if row.method.startswith("streaming") and row.level != "host"
    ]
    assert others and all(row.status == "done" for row in others)
    assert "error: " in capsys.readouterr().err


def test_a_selection_unlike_its_twin_is_not_timed(make, monkeypatch):
    real = RRAttention.select

    def sloppy(self, query, key, **given):
        method = self if self.estimator == "torch" else replace(self, tau=0.3, estimator="torch")
        return real(method, query, key, **given)

    monkeypatch.setattr(RRAttention, "select", sloppy)
    settings = make(levels=["selection", "both"], captured=False)
    assert latency(settings) == 1
    rows = [row for row in rows_of(settings) if row.method.startswith("rr")]
    assert {row.level for row in rows} == {"selection", "both"}
    for row in rows:
        assert row.status == "failed" and "parity gate" in row.reason
        assert row.error > gate.MOVED and row.median_ms is None


def test_a_wrong_kernel_is_not_timed(make, monkeypatch):
    real = gate.Gate.attend
    monkeypatch.setattr(gate.Gate, "attend", lambda *args: real(*args) * 1.05)
    settings = make(levels=["attention"], captured=False)
    assert latency(settings) == 1
    rows = rows_of(settings)
    masks = [row for row in rows if row.method == "mask" and row.backend not in RIVALS]
    assert len(masks) == 4
    for row in masks:
        assert row.median_ms is None and row.status in ("failed", "missing")
        if row.status == "failed":
            assert row.error == pytest.approx(0.05, rel=0.1)
    assert [row.status for row in rows if row.backend == "dense:cpu-flash"] == ["done"]


def test_impossible_settings_fail_before_anything_is_measured(make, capsys):
    assert latency(make(prefill_methods=["xattention"])) == 1
    assert latency(make(models=["lama"])) == 1
    assert latency(make(prefill_dense=["fa33"])) == 1
    assert latency(make(methods=["rrr"])) == 1
    err = capsys.readouterr().err
    assert "'xattention' is none of `methods`" in err and "unknown 'lama'" in err and "'rrr'" in err
    assert "latency.prefill_dense: unknown 'fa33'" in err


def test_methods_of_a_whole_prefill_are_checked_only_where_it_is_measured(make, capsys):
    chosen = {"prefill_methods": ["xattention"], "captured": False}
    assert latency(replace(make(levels=["both"], **chosen), dry_run=True)) == 0
    assert latency(replace(make(levels=["both", "prefill"], **chosen), dry_run=True)) == 1
    assert "latency.prefill_methods: 'xattention'" in capsys.readouterr().err


def test_a_group_is_current_as_long_as_versions_and_its_own_settings_are(make, monkeypatch):
    def keys(**changes) -> dict[str, str]:
        found = experiment.Experiment(make(captured=False, **changes), Device("cpu", "cpu"))
        return {group.level: found.key(group) for group in found.groups()}

    def differ(now: dict[str, str]) -> set[str]:
        return {level for level in LEVELS if now[level] != before[level]}

    before = keys()
    assert differ(keys(prefill_methods=[])) == {"prefill"}
    assert differ(keys(prefill_dense=["fa3"])) == {"prefill"}
    assert differ(keys(densities=[0.5])) == {"attention"}
    assert differ(keys(replay=[0.5])) == {"both", "layer", "prefill"}
    assert differ(keys(calls=2)) == set(LEVELS)
    own = set(LEVELS) - {"ceiling"}
    assert differ(keys(graph=True)) == {"prefill"}
    assert differ(keys(methods=["full", {"name": "rr", "tau": 0.5}])) == own
    for where, name, value, measured_again in (
        (RRAttention, "version", 99, own),
        (experiment.attention, "VERSION", 99, set(LEVELS)),
        (experiment, "VERSION", 99, set(LEVELS)),
        (experiment, "versions", lambda: {"fa3-fwd": "0"}, set(LEVELS)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            assert differ(keys()) == measured_again, name


def test_a_second_process_is_kept_out(make, capsys):
    settings = make(levels=["ceiling"], captured=False)
    Path(settings.out).mkdir()
    with FileLock(Path(settings.out) / "LOCK"):
        assert latency(settings) == 1
    assert "another process measures into" in capsys.readouterr().err
    assert latency(settings) == 0


def test_what_failed_is_tried_again(make, monkeypatch):
    settings = make(levels=["selection"], captured=False)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "MOVED", -1.0)
        assert latency(settings) == 1
    assert {row.status for row in rows_of(settings)} == {"done", "failed"}
    assert latency(settings) == 0
    assert {row.status for row in rows_of(settings)} == {"done"}


def test_dry_run_measures_nothing(make, capsys):
    settings = replace(make(), dry_run=True)
    assert latency(settings) == 0
    assert not Path(settings.out).exists()
    assert f"both tiny {LENGTH}" in capsys.readouterr().out


def test_a_kernel_of_its_own_is_timed_whole_only(make):
    native = {"name": "minference_native", "vertical_size": 100, "slash_size": 200}
    levels_wanted = ["attention", "selection", "both"]
    settings = make(methods=["full", native], levels=levels_wanted, captured=False, prefill_methods=[])
    assert latency(settings) == 0
    rows = [row for row in rows_of(settings) if row.method.startswith("minference")]
    assert [(row.level, row.inputs, row.backend) for row in rows] == [
        ("both", "random", "native:torch")
    ]
    assert rows[0].status == "done" and 0 < rows[0].density < 1


def test_prompts_below_the_setting_run_dense_and_say_so(make):
    native = {"name": "minference_native", "vertical_size": 100, "slash_size": 200}
    wanted = {"methods": ["full", "rr", native], "levels": ["attention", "both"]}
    settings = make(dense_below=LENGTH + 1, captured=False, **wanted)
    assert latency(settings) == 0
    own = [row for row in rows_of(settings) if row.method.startswith("minference_native")]
    assert [(row.level, row.backend[:6], row.status) for row in own] == [("both", "dense:", "done")]
    rows = [row for row in rows_of(settings) if row.method.startswith("rr(")]
    assert {(row.level, row.inputs) for row in rows} == {
        ("attention", "random"), ("both", "random"), ("both", "replay")
    }  # fmt: skip
    for row in rows:
        dense = row.level == "both"
        assert row.status == "done" and row.backend.startswith("dense:") == dense
        assert row.density == 1.0 or not dense
