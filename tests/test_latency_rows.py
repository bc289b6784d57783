"""Parts of the latency experiment: gates, baselines, timing without a GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from method.attention import SparsePrefill
from method.blocks import BlockMask
from method.minference import MInference
from method.ops.launch import kept
from method.rr import RRAttention
from method.rr_plus import RRPlus
from method.streaming import Streaming
from rr_bench.config.errors import ConfigError
from rr_bench.config.latency import GEOMETRIES, read_geometry
from rr_bench.config.registry import expand_method
from rr_bench.latency import timing
from rr_bench.latency.baselines import Absent, by_token, dense_attention, packaged
from rr_bench.latency.clock import measure
from rr_bench.latency.gate import Gate, GateFailed, check_native, check_output, check_selection
from rr_bench.latency.inputs import Inputs, Shape, random_inputs, random_mask
from rr_bench.latency.levels import Entry, selection_rows
from rr_bench.latency.prefills import NO_KEEP, Replay, run_prefill
from rr_bench.latency.timing import Candidate, Prepared, run_group
from rr_bench.store.latency_table import Row

CPU = torch.device("cpu")
TINY = vars(GEOMETRIES["llama31_8b"]) | {"layers": 2, "heads": 2, "kv_heads": 1}
EFFORT = (CPU, 1, 1.0)


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
        [Candidate(rows[0], ready(lambda: None)), Candidate(rows[1], ready(wavering))], *EFFORT
    )
    assert done.status == "done" and done.tflops > 0
    assert failed == replace(rows[1], status="failed", reason="MemoryError: out of memory")


def test_a_loop_that_fails_leaves_reasons(monkeypatch):
    def broken(*args, **given):
        raise RuntimeError("device lost")

    monkeypatch.setattr(timing, "measure", broken)
    row = Row("both", "m", "random", "rr", "b", 1)
    found = run_group([Candidate(row, lambda: Prepared(lambda: None, error=0.1))], *EFFORT)
    assert found == [replace(row, status="failed", reason="RuntimeError: device lost")]


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
    assert {name: one.n for name, one in found.items()} == {"a": 5, "b": 5}
    assert calls["a"] == calls["b"] == 8 and found["a"].median_ms > 0


def test_functions_take_turns_in_another_order_every_round():
    made: list[str] = []
    names = ["a", "b", "c", "d"]
    calls = {name: lambda name=name: made.append(name) for name in names}
    found = measure(calls, device=CPU, calls_wanted=5, budget_ms=1e6)
    rounds = [tuple(made[first : first + 4]) for first in range(0, len(made), 4)]
    assert all(sorted(one) == names for one in rounds) and len(set(rounds)) > 4
    assert list(found) == names


def inputs_of(shape: Shape) -> Inputs:
    return Inputs("m", "random", shape.length, shape.heads, 0, lambda: random_inputs(shape, CPU))


def test_a_replayed_mask_takes_the_place_of_the_selection():
    shape = Shape(1000, 2, 1, 64, torch.float32)
    inputs, seen = inputs_of(shape), []

    class Counting(Replay):
        def select(self, query, key, **given):
            seen.append(given["keep"])
            return super().select(query, key, **given)

    mask = random_mask(shape, 0.6, CPU)
    other = Counting(None, BlockMask.causal(1, 2, 1000, 1000))
    result = run_prefill(inputs, SparsePrefill(Replay(other, mask, "keep"), NO_KEEP))
    assert seen == ["keep"]
    truth = Gate("auto").attend(*inputs.tensors, mask, shape.scale)
    assert torch.equal(result.output, truth)


def test_a_selection_is_timed_with_its_launches_ready():
    made = []

    @dataclass(frozen=True)
    class Making(RRAttention):
        def select(self, query, key, **given):
            kept("making", (query, key), None, lambda: made.append(1) or made)
            return super().select(query, key, **given)

    entry = Entry(expand_method("rr")[0], Making(), NO_KEEP)
    gate = SimpleNamespace(selection=lambda *given: 0.0)
    bench = SimpleNamespace(gate=gate, device=CPU, selecting=lambda _: [entry], row=lambda *given: None)
    (candidate,) = selection_rows(bench, inputs_of(Shape(300, 2, 1, 64, torch.float32)))
    call = candidate.prepare().call
    call()
    before = len(made)
    call()
    assert len(made) == before > 0


def test_a_noted_selection_is_the_one_that_ran():
    shape = Shape(2048, 2, 1, 64, torch.float32)
    inputs, noting = inputs_of(shape), Replay(RRAttention(), keep=RRAttention.paper_keep)
    result = run_prefill(inputs, SparsePrefill(noting, NO_KEEP))
    assert noting.mask is not None
    truth = Gate("auto").attend(*inputs.tensors, noting.mask, shape.scale)
    assert torch.equal(result.output, truth)


def test_what_rows_share_is_checked_and_worked_out_once(monkeypatch):
    shape, calls = Shape(300, 2, 1, 64, torch.float32), []
    inputs, gate = inputs_of(shape), Gate("auto")
    real = Gate.attend
    monkeypatch.setattr(Gate, "attend", lambda *args: calls.append(1) or real(*args))
    assert gate.kernel(inputs) == gate.kernel(inputs_of(Shape(400, 2, 1, 64, torch.float32))) == "torch"
    assert len(calls) == 1
    mask = inputs.mask(1.0)
    assert gate.truth(inputs, mask) is gate.truth(inputs, mask)
    assert gate.truth(inputs, random_mask(shape, 0.5, CPU)) is not gate.truth(inputs, mask)


def test_masks_that_a_short_prompt_cannot_have_are_absent():
    with pytest.raises(Absent, match=r"256 tokens are too few: their mask keeps 1\.00"):
        inputs_of(Shape(256, 2, 1, 64)).mask(0.2)


def test_baselines_that_are_absent_say_why():
    query, key, value = random_inputs(Shape(256, 2, 1, 64), CPU)
    with pytest.raises(Absent, match="needs a GPU"):
        dense_attention("cudnn", query, key, value)


def test_flash_attention_is_found_in_whichever_package_has_it(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    names = "flash_attn_interface", "fa3_fwd_interface"
    with pytest.raises(Absent, match=f"{names[0]} is not installed; {names[1]} is not installed"):
        packaged("fa3")
    for name, code in zip(
        names, ("import einops_that_is_absent", "flash_attn_func = len"), strict=True
    ):
        (tmp_path / f"{name}.py").write_text(code)
    assert packaged("fa3") is len
    # A package named flash_attn without FlashAttention-4 inside.
    (tmp_path / "flash_attn").mkdir()
    with pytest.raises(Absent, match=r"flash_attn\.cute\.interface is not installed"):
        packaged("fa4")
    (tmp_path / "flash_attn/cute").mkdir()
    (tmp_path / "flash_attn/cute/interface.py").write_text("import cutlass_that_is_absent")
    with pytest.raises(Absent, match=r"does not import: No module named 'cutlass_that_is_absent'"):
        packaged("fa4")
    for name in (*names, "flash_attn.cute.interface", "flash_attn.cute", "flash_attn"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("more", [False, True])
def test_flash_attention_takes_tokens_before_heads(more):
    query, key, value = random_inputs(Shape(300, 4, 2, 64, torch.float32), CPU)

    def run(q, k, v, softmax_scale, causal):
        by_head = (one.transpose(1, 2) for one in (q, k, v))
        output = F.scaled_dot_product_attention(
            *by_head, scale=softmax_scale, is_causal=causal, enable_gqa=True
        ).transpose(1, 2)
        return (output, "lse") if more else output

    found = by_token(run)(query, key, value, 0.1)
    truth = dense_attention("cpu-flash", query, key, value)(query, key, value, 0.1)
    assert torch.allclose(found, truth, atol=1e-5)


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


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (RRPlus(keys="exact"), "torch triton"),
        (RRPlus(keys="spread"), "torch torch"),
        (RRAttention(estimator="torch"), "torch torch"),
        (Streaming(), "torch torch"),
    ],
)
def test_a_selection_is_named_after_what_it_runs_on(method, names):
    entry = Entry(expand_method("rr")[0], method, NO_KEEP)
    assert [entry.estimator(torch.device(name)) for name in ("cpu", "cuda")] == names.split()
