"""The latency experiment on a CPU: every row has a status, and nothing unchecked has a time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from method.attention import SparsePrefill
from method.blocks import BlockMask
from method.minference import MInference
from method.rr import RRAttention
from rr_bench.config import ConfigError, LatencySettings, ModelSettings, RunSettings
from rr_bench.latency import experiment as module
from rr_bench.latency import levels, parity
from rr_bench.latency.baselines import Absent, dense_attention
from rr_bench.latency.cases import Shape, random_inputs, random_mask
from rr_bench.latency.experiment import latency
from rr_bench.latency.geometry import read_geometry
from rr_bench.latency.group import Candidate, Effort, Prepared, run_group
from rr_bench.latency.inputs import NO_KEEP, Fixed, Inputs
from rr_bench.latency.parity import GateFailed, check_native, check_output, check_selection
from rr_bench.latency.table import COLUMNS, Row, Table, TableError, read_rows, with_speedups
from rr_bench.latency.timing import measure

CPU = torch.device("cpu")
LENGTH = 2048
TINY = {
    **{"name": "tiny", "family": "qwen2", "layers": 2, "hidden": 128, "mlp": 128},
    **{"heads": 2, "kv_heads": 1, "dim": 64, "vocab": 256},
}
ENVIRONMENT = {"device": "cpu", "versions": {"torch": "1"}}
EFFORT = Effort(CPU, 1, 1.0)


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
    assert {row.level for row in rows} == set(LatencySettings().levels)
    assert {row.inputs for row in rows} == {"random", "mask", "replay", "probe"}
    for row in rows:
        assert row.status in ("done", "missing") and row.device == "cpu"
        assert (row.median_ms is not None) == (row.status == "done") == (row.reason is None)
        assert row.status != "done" or row.p20_ms <= row.median_ms <= row.p80_ms
    done = {(row.level, row.method, row.backend) for row in rows if row.status == "done"}
    assert ("prefill", "rr(tau=0.95, stride=8)", "torch") in done
    assert ("layer", "streaming(sink=128, window=896)", "torch") in done
    assert ("attention", "full", "dense:cpu-flash") in done
    assert {row.model for row in rows if row.inputs == "probe"} == {"small"}
    reasons = {row.backend: row.reason for row in rows if row.status == "missing"}
    assert reasons["dense:cudnn"] == "needs a GPU" and "GPUs only" in reasons["flex_attention"]
    record = json.loads((Path(settings.out) / "env.json").read_text())
    assert record["device"] == "cpu" and record["groups"][f"both tiny {LENGTH}"]["complete"]
    out = capsys.readouterr().out
    assert "times on a CPU show that it runs" in out and "rows: " in out


def test_a_second_run_has_nothing_to_do(make, monkeypatch, capsys):
    settings = make(levels=["selection"], captured=False)
    assert latency(settings) == 0
    before = rows_of(settings)
    monkeypatch.setattr(module, "run_group", lambda *args: pytest.fail("measured again"))
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
        ("selection", "rr(tau=0.5, stride=8)"),
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
    rows = [row for row in rows_of(settings) if row.method.startswith("rr")]
    assert {row.level for row in rows} == {"attention", "selection", "both", "layer", "prefill"}
    for row in rows:
        assert row.status == "failed" and row.reason == "RuntimeError: no such kernel in …/method.py"
        assert row.median_ms is row.n is row.tflops is row.peak_extra_mib is None
    others = [row for row in rows_of(settings) if row.method.startswith("streaming")]
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
        assert row.error > parity.MOVED and row.median_ms is None


def test_a_wrong_kernel_is_not_timed(make, monkeypatch):
    real = levels.Inputs.attend
    monkeypatch.setattr(levels.Inputs, "attend", lambda *args: real(*args) * 1.05)
    settings = make(levels=["attention"], captured=False)
    assert latency(settings) == 1
    rows = rows_of(settings)
    masks = [row for row in rows if row.method == "mask" and row.backend != "flex_attention"]
    assert len(masks) == 4
    for row in masks:
        assert row.median_ms is None and row.status in ("failed", "missing")
        if row.status == "failed":
            assert row.error == pytest.approx(0.05, rel=0.1)
    assert [row.status for row in rows if row.backend == "dense:cpu-flash"] == ["done"]


def test_a_call_that_fails_while_it_is_timed_leaves_the_others():
    calls = []

    def wavering():
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("out of memory")

    def ready(call):
        return lambda: Prepared(call, flops=1e9)

    rows = [Row("both", "m", "random", name, "b", 1) for name in ("good", "bad")]
    done, failed = run_group(
        [Candidate(rows[0], ready(lambda: None)), Candidate(rows[1], ready(wavering))], EFFORT
    )
    assert done.status == "done" and done.tflops > 0
    assert failed == replace(rows[1], status="failed", reason="MemoryError: out of memory")


def test_speedups_are_ratios_to_dense_of_the_same_group():
    def row(method, backend, ms, level="both", status="done"):
        return Row(level, "m", "random", method, backend, 1, median_ms=ms, status=status)

    rows = [
        row("full", "dense:cudnn", 8.0),
        row("full", "dense:fa2", 12.0),
        row("rr", "triton", 4.0),
        row("slow", "triton", None, status="failed"),
        row("rr", "triton", 1.0, "selection"),
    ]
    found = [(one.vs_dense_cudnn, one.vs_dense_fa2) for one in with_speedups(rows)]
    assert found == [(1, 1.5), (8 / 12, 1), (2, 3), (None, None), (None, None)]
    assert with_speedups(rows[2:])[0].vs_dense_cudnn is None


def test_a_table_keeps_to_one_environment(tmp_path):
    row = Row("both", "m", "random", "rr, sparse", "b", 4096, density=0.35, error=1e-3, status="done")
    Table(tmp_path, ENVIRONMENT).put("both m 4096", "key", [row], 1.0)
    again = Table(tmp_path, {**ENVIRONMENT, "time": "later"})
    assert again.rows == [row]
    assert again.done("both m 4096", "key") and not again.done("both m 4096", "other")
    with pytest.raises(TableError, match=r"torch 1, here it is 2: set out="):
        Table(tmp_path, {"device": "cpu", "versions": {"torch": "2"}})
    with pytest.raises(TableError, match="device cpu, here it is H"):
        Table(tmp_path, {**ENVIRONMENT, "device": "H"})
    (tmp_path / "latency.csv").write_text("a,b\n")
    with pytest.raises(TableError, match="other columns"):
        Table(tmp_path, ENVIRONMENT)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("llama", "did you mean 'llama31_8b'"),
        ({**TINY, "head": 2}, "did you mean 'heads'"),
        ({**TINY, "layers": 0}, "layers=0"),
        ({**TINY, "family": "gpt"}, "family=gpt"),
        ({**TINY, "kv_heads": 3}, "no multiple of kv_heads=3"),
        (3, "neither a name"),
    ],
)
def test_impossible_shapes_name_the_field(entry, words):
    with pytest.raises(ConfigError, match=words):
        read_geometry(entry)


def test_impossible_settings_fail_before_anything_is_measured(make, capsys):
    assert latency(make(prefill_methods=["xattention"])) == 1
    assert latency(make(models=["lama"])) == 1
    assert latency(make(methods=["rrr"])) == 1
    err = capsys.readouterr().err
    assert "'xattention' is none of `methods`" in err and "unknown 'lama'" in err and "'rrr'" in err


def test_dry_run_measures_nothing(make, capsys):
    settings = replace(make(), dry_run=True)
    assert latency(settings) == 0
    assert not Path(settings.out).exists()
    assert f"both tiny {LENGTH}" in capsys.readouterr().out


def test_timing_without_a_gpu():
    calls = {"a": 0, "b": 0}

    def count(name):
        calls[name] += 1

    found = measure(
        {name: lambda name=name: count(name) for name in calls},
        device=CPU,
        calls_wanted=5,
        budget_ms=1e6,
    )
    assert {name: timing.n for name, timing in found.items()} == {"a": 5, "b": 5}
    assert calls["a"] == calls["b"] == 8 and found["a"].median_ms > 0


def inputs_of(shape: Shape) -> Inputs:
    return Inputs(lambda: random_inputs(shape, CPU), 0, "auto")


def test_a_replayed_mask_takes_the_place_of_the_selection():
    shape = Shape(1000, 2, 1, 64, torch.float32)
    inputs, seen = inputs_of(shape), []

    class Counting(Fixed):
        def select(self, query, key, **given):
            seen.append(given["keep"])
            return super().select(query, key, **given)

    mask = random_mask(shape, 0.6, CPU)
    other = Counting(BlockMask.causal(1, 2, 1000, 1000))
    result = inputs.prefill(SparsePrefill(Fixed(mask, other, "keep"), NO_KEEP))
    assert seen == ["keep"]
    truth = inputs.attend(*inputs.tensors, mask, shape.scale)
    assert torch.equal(result.output, truth)


def test_masks_that_a_short_prompt_cannot_have_are_absent():
    with pytest.raises(Absent, match=r"256 tokens are too few: their mask keeps 1\.00"):
        inputs_of(Shape(256, 2, 1, 64)).mask(0.2)


def test_baselines_that_are_absent_say_why():
    query, key, value = random_inputs(Shape(256, 2, 1, 64), CPU)
    with pytest.raises(Absent, match="needs a GPU"):
        dense_attention("cudnn", query, key, value)


def test_gates_pass_what_is_right_and_stop_what_is_not():
    shape = Shape(LENGTH, 2, 1, 64, torch.float32)
    right = torch.randn(1, 2, 8, 4)
    assert check_output(right, right) == 0
    for wrong in (right * 1.01, torch.full_like(right, torch.nan)):
        with pytest.raises(GateFailed):
            check_output(wrong, right)
    assert check_selection(RRAttention(), RRAttention.paper_keep, shape, 0, CPU) == 0
    native = MInference(variant="native", vertical_size=100, slash_size=200)
    assert check_native(native, NO_KEEP, shape, 0, CPU) < 1e-5


def test_a_kernel_of_its_own_is_timed_whole_only(make):
    native = {"name": "minference_native", "vertical_size": 100, "slash_size": 200}
    levels_wanted = ["attention", "selection", "both"]
    settings = make(methods=["full", native], levels=levels_wanted, captured=False, prefill_methods=[])
    assert latency(settings) == 0
    rows = [row for row in rows_of(settings) if row.method.startswith("minference")]
    assert [(row.level, row.inputs, row.backend) for row in rows] == [("both", "random", "native")]
    assert rows[0].status == "done" and 0 < rows[0].density < 1
