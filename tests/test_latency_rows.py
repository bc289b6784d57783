"""Parts of the latency experiment: gates, tables, timing without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from method.attention import SparsePrefill
from method.blocks import BlockMask
from method.minference import MInference
from method.rr import RRAttention
from rr_bench.config.latency import GEOMETRIES, read_geometry
from rr_bench.config.schema import ConfigError
from rr_bench.latency import candidate
from rr_bench.latency.baselines import Absent, dense_attention
from rr_bench.latency.candidate import Candidate, Effort, Prepared, run_group
from rr_bench.latency.cases import Shape, random_inputs, random_mask
from rr_bench.latency.inputs import NO_KEEP, Fixed, Inputs
from rr_bench.latency.parity import GateFailed, check_native, check_output, check_selection
from rr_bench.latency.table import Row, Table, TableError, with_speedups
from rr_bench.latency.timing import measure

CPU = torch.device("cpu")
TINY = vars(GEOMETRIES["llama31_8b"]) | {"layers": 2, "heads": 2, "kv_heads": 1}
ENVIRONMENT = {"device": "cpu", "versions": {"torch": "1"}}
EFFORT = Effort(CPU, 1, 1.0)


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


def test_a_loop_that_fails_leaves_reasons(monkeypatch):
    def broken(*args, **given):
        raise RuntimeError("device lost")

    monkeypatch.setattr(candidate, "measure", broken)
    row = Row("both", "m", "random", "rr", "b", 1)
    found = run_group([Candidate(row, lambda: Prepared(lambda: None, error=0.1))], EFFORT)
    assert found == [replace(row, status="failed", reason="RuntimeError: device lost")]


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
    shape = Shape(2048, 2, 1, 64, torch.float32)
    right = torch.randn(1, 2, 8, 4)
    assert check_output(right, right) == 0
    for wrong in (right * 1.01, torch.full_like(right, torch.nan)):
        with pytest.raises(GateFailed):
            check_output(wrong, right)
    assert check_selection(RRAttention(), RRAttention.paper_keep, shape, 0, CPU) == 0
    native = MInference(variant="native", vertical_size=100, slash_size=200)
    assert check_native(native, NO_KEEP, shape, 0, CPU) < 1e-5
