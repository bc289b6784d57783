"""An executor's repeated calls: on other tensors, and captured in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from method.attention import SparsePrefill
from method.flexprefill import FlexPrefill
from method.keep import RR_KEEP
from method.rr import RRAttention
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
def test_later_calls_are_as_a_first_one(backend, poisoned):
    prefill = prefill_of(RRAttention(tau=0.8), backend)
    for seed in range(4):
        inputs = tensors(CASE, torch.bfloat16, "cuda", seed)
        if seed == 2:  # the same shape with other strides
            inputs = tuple(one.transpose(1, 2).contiguous().transpose(1, 2) for one in inputs)
        found = prefill(*inputs, scale=0.1, layer=0)
        fresh = prefill_of(RRAttention(tau=0.8), backend)(*inputs, scale=0.1, layer=0)
        assert torch.equal(found.output, fresh.output) and torch.equal(found.density, fresh.density)


def test_calls_on_two_streams_do_not_meet():
    prefill, streams = prefill_of(RRAttention(tau=0.8), "triton"), [torch.cuda.Stream() for _ in "ab"]
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
