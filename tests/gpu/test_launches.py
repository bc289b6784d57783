"""An executor's repeated calls: on other tensors, and captured in a CUDA graph."""

from __future__ import annotations

from threading import Thread

import pytest
import torch

from method.attention import SparsePrefill
from method.flexprefill import FlexPrefill
from method.keep import RR_KEEP
from method.ops.repeat import Repeat
from method.rr import RRAttention
from method.rr_plus import RRPlus
from method.xattention import XAttention
from rr_bench.latency.graphs import captured
from tests.attention_cases import Case, tensors

pytestmark = pytest.mark.gpu

CASE = Case(2000, 2000, group=4, dim=128, kv_heads=2)
BACKENDS = ["hopper", "triton"]


def prefill_of(method, backend):
    if backend == "hopper" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a chip of compute capability 9.0")
    return SparsePrefill(method, RR_KEEP, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", [RRAttention(tau=0.8), RRPlus(keys="mean")], ids=str)
def test_later_calls_are_as_a_first_one(method, backend, poisoned):
    prefill = prefill_of(method, backend)
    for seed in range(8):
        # Freed and given again: tensors come back at addresses of earlier ones.
        inputs = tensors(CASE, torch.bfloat16, "cuda", seed)
        if seed % 2:  # the same shape with other strides
            inputs = tuple(one.contiguous() for one in inputs)
        found = prefill(*inputs, scale=0.1, layer=0)
        fresh = prefill_of(method, backend)(*inputs, scale=0.1, layer=0)
        assert torch.equal(found.output, fresh.output) and torch.equal(found.density, fresh.density)
    assert repeats(prefill, 2)


def repeats(prefill, count):
    """Whether that many calls are known as launches of the driver."""
    known = [one for one in prefill.launches._made.values() if isinstance(one, Repeat)]
    return len(known) == count and all(one.direct for one in known)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_method_is_asked_twice(backend, monkeypatch):
    prefill, asked = prefill_of(RRAttention(tau=0.8), backend), []
    scores = RRAttention.scores
    monkeypatch.setattr(
        RRAttention, "scores", lambda *args, **options: asked.append(1) or scores(*args, **options)
    )
    inputs = tensors(CASE, torch.bfloat16, "cuda", 0)
    for layer in range(6):
        prefill(*inputs, scale=0.1, layer=layer)
    assert len(asked) == 2 and repeats(prefill, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_thread_repeats_calls_too(backend):
    prefill = prefill_of(RRAttention(tau=0.8), backend)
    inputs = tensors(CASE, torch.bfloat16, "cuda", 0)
    alone = [prefill(*inputs, scale=0.1, layer=0).output for _ in range(3)][-1]
    found = []
    thread = Thread(target=lambda: found.append(prefill(*inputs, scale=0.1, layer=0).output))
    thread.start()
    thread.join()
    assert torch.equal(found[0], alone) and repeats(prefill, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_repeated_call_is_captured_as_well(backend):
    prefill = prefill_of(RRAttention(tau=0.8), backend)
    static = tensors(CASE, torch.bfloat16, "cuda", 0)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            prefill(*static, scale=0.1, layer=0)
    torch.cuda.synchronize()
    assert repeats(prefill, 1)
    with torch.cuda.graph(graph, stream=stream):
        found = prefill(*static, scale=0.1, layer=0)
    for seed in (1, 2):
        inputs = tensors(CASE, torch.bfloat16, "cuda", seed)
        for kept, new in zip(static, inputs, strict=True):
            kept.copy_(new)
        fresh = prefill_of(RRAttention(tau=0.8), backend)(*inputs, scale=0.1, layer=0)
        graph.replay()
        assert torch.equal(found.output, fresh.output) and torch.equal(found.density, fresh.density)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_waits_for_the_kernels_ahead(backend):
    prefill = prefill_of(RRAttention(tau=0.8), backend)
    inputs = [tensors(CASE, torch.bfloat16, "cuda", seed) for seed in range(4)]
    alone = []
    for one in inputs:
        torch.cuda.synchronize()
        alone.append(prefill_of(RRAttention(tau=0.8), backend)(*one, scale=0.1, layer=0).output)
    static, found = [torch.empty_like(one) for one in inputs[0]], []
    for turn in range(80):
        for target, source in zip(static, inputs[turn % 4], strict=True):
            target.copy_(source)
        found.append(prefill(*static, scale=0.1, layer=0).output)
    assert all(torch.equal(one, alone[turn % 4]) for turn, one in enumerate(found))


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_on_two_streams_do_not_meet(backend):
    prefill, streams = prefill_of(RRAttention(tau=0.8), backend), [torch.cuda.Stream() for _ in "ab"]
    inputs = [tensors(CASE, torch.bfloat16, "cuda", seed) for seed in (0, 1)]
    alone = [prefill(*one, scale=0.1, layer=0).output for one in inputs]
    torch.cuda.synchronize()
    for _ in range(10):
        found = []
        for stream, one in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(prefill(*one, scale=0.1, layer=0).output)
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))
    assert repeats(prefill, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", [RRAttention(tau=0.8), XAttention(), FlexPrefill()], ids=str)
def test_a_captured_layer_is_replayed_on_new_inputs(method, backend):
    prefill, static = prefill_of(method, backend), tensors(CASE, torch.bfloat16, "cuda", 0)
    replay = captured(lambda: prefill(*static, scale=0.1, layer=3).output)
    for seed in (1, 2):
        inputs = tensors(CASE, torch.bfloat16, "cuda", seed)
        for kept, new in zip(static, inputs, strict=True):
            kept.copy_(new)
        expected = prefill_of(method, backend)(*inputs, scale=0.1, layer=3).output
        assert torch.equal(replay(), expected)


def test_a_captured_prefill_is_replayed_on_new_tokens(tmp_path):
    from transformers import AutoModelForCausalLM

    from rr_bench.model.hook import sparse_prefill
    from tests.tiny import tiny_llama

    small = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    folder = tiny_llama(tmp_path / "llama", **small)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).cuda().eval()
    tokens = torch.randint(0, model.config.vocab_size, (3, 1, 1500), device="cuda")
    static = tokens[0].clone()
    prefill = SparsePrefill(RRAttention(tau=0.8), RR_KEEP)
    with torch.inference_mode(), sparse_prefill(model, prefill) as recorder:

        def forward():
            recorder.reset()
            return model(input_ids=static, use_cache=True, logits_to_keep=1).logits

        replay = captured(forward)
        for one in tokens[1:]:
            static.copy_(one)
            found = replay().clone()
            assert torch.equal(found, forward())
