"""Steps over buffers give the tokens of transformers' ``generate``; uncaptured, on a CPU in float32.

Several prompts together give what each gives alone, whatever stands beside it.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import RR_KEEP
from method.rr import RRAttention
from rr_bench.model import buffers, graph
from rr_bench.model.choice import choose_decoder, why_not
from rr_bench.model.decoding import Ask, NotFinite
from rr_bench.model.graph import BUCKET, StepDecoder
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.memory import OutOfMemory
from rr_bench.plan.model_facts import CheckpointError
from tests.test_lm import PROMPT, generation
from tests.tiny import SHAPE, tiny_llama, tiny_qwen2, tiny_qwen3

PREFILLS = [
    SparsePrefill(FullAttention(), RR_KEEP),
    SparsePrefill(RRAttention(tau=0.5), RR_KEEP),
]
MAKERS = {
    "llama": tiny_llama,
    "llama without GQA": lambda path: tiny_llama(path, num_key_value_heads=4),
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
}


@pytest.fixture(scope="module", params=list(MAKERS))
def parts(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    MAKERS[request.param](path)
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def lms(parts, prefill=PREFILLS[0], **settings) -> tuple[SparseHFLM, SparseHFLM]:
    """One that decodes by ``generate``, and one that decodes by steps."""
    native, stepped = (SparseHFLM(*parts, prefill, **settings) for _ in range(2))
    stepped.decoder = StepDecoder(stepped.model, capture=False)
    return native, stepped


def prefill(decoder, ids, room) -> None:
    decoder.reserve(ids.shape[1] + room)
    decoder.model.base_model(ids[:, :-1], past_key_values=decoder.fill(0), use_cache=True)


def both(parts, request, **settings) -> list[str]:
    found = [lm.generate_until([request], disable_tqdm=True)[0] for lm in lms(parts, **settings)]
    assert found[0] == found[1]
    return found


@pytest.mark.parametrize("prefill", PREFILLS, ids=lambda prefill: type(prefill.method).__name__)
@pytest.mark.parametrize("tokens", [1, graph.STEPS, 4 * graph.STEPS + 1])
def test_answers_are_those_of_generate(parts, prefill, tokens):
    found, _ = both(parts, generation(PROMPT, max_gen_toks=tokens), prefill=prefill)
    assert found


@pytest.mark.parametrize("penalty", [1.05, 1.8])
def test_the_repetition_penalty_is_that_of_generate(parts, penalty):
    plain, _ = both(parts, generation(PROMPT, max_gen_toks=24))
    model = copy.copy(parts[0])
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.repetition_penalty = penalty
    found, _ = both((model, parts[1]), generation(PROMPT, max_gen_toks=24))
    if penalty > 1.5:
        assert found != plain


def test_an_answer_ends_at_a_stop_token_and_has_no_more(parts, monkeypatch):
    model, tokenizer = parts
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    free = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    for stop in (free[0], free[5]):
        monkeypatch.setattr(SparseHFLM, "stop_ids", lambda self, stop=stop: [stop])
        _, stepped = lms(parts)
        prefill(stepped.decoder, ids, room=12)
        assert stepped.decoder.decode([Ask(ids, 12, [stop])]) == [free[: free.index(stop) + 1]]
        both(parts, generation(PROMPT, max_gen_toks=12))


def test_newline_tokens_end_an_answer(parts):
    model, tokenizer = parts
    newline = tokenizer.get_vocab()["Ċ"]
    head = model.lm_head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([newline]), 1e4)
    )
    try:
        request = generation(PROMPT, max_gen_toks=6)
        assert both(parts, request, newline_stop=True)[0] == "\n"
        assert both(parts, request)[0] == "\n" * 6
    finally:
        head.remove()


def test_stop_strings_end_and_are_cut(parts):
    free, _ = both(parts, generation(PROMPT, max_gen_toks=12))
    stop = free[len(free) // 2 :][:2]
    found, _ = both(parts, generation(PROMPT, max_gen_toks=12, until=[stop]))
    assert found == free[: free.index(stop)]


def test_one_decoder_serves_prompts_of_any_length_in_any_order(parts):
    native, stepped = lms(parts)
    prompts = [PROMPT * 3, "Key: ab", PROMPT, PROMPT[:5], PROMPT * 2]
    requests = [generation(prompt, i, max_gen_toks=9) for i, prompt in enumerate(prompts)]
    expected = native.generate_until(requests, disable_tqdm=True)
    assert stepped.generate_until(requests, disable_tqdm=True) == expected


def test_buffers_grow_by_whole_buckets_and_are_used_again(parts):
    decoder = StepDecoder(parts[0], capture=False)
    decoder.reserve(100)
    small = decoder.fill(0)
    assert small.layers[0].get_max_length() == BUCKET
    decoder.reserve(BUCKET)
    assert decoder.fill(0) is small
    decoder.reserve(BUCKET + 1)
    grown = decoder.fill(0)
    assert grown is not small and grown.layers[0].get_max_length() == 2 * BUCKET
    decoder.reserve(10)
    assert decoder.fill(0) is grown


def test_memory_that_ran_out_is_given_back(parts, monkeypatch):
    native, stepped = lms(parts)
    request = generation(PROMPT, max_gen_toks=5)

    def fail(self, key_states, value_states):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(buffers.BufferedLayer, "lazy_initialization", fail)
        with pytest.raises(OutOfMemory):
            stepped.generate_until([request], disable_tqdm=True)
    assert stepped.decoder._buffers is None
    expected = native.generate_until([request], disable_tqdm=True)
    assert stepped.generate_until([request], disable_tqdm=True) == expected


def test_logits_that_are_not_finite_are_an_error(parts):
    model = copy.deepcopy(parts[0])
    with torch.no_grad():
        model.lm_head.weight[7] = float("inf")
    _, stepped = lms((model, parts[1]))
    with pytest.raises(NotFinite, match="weights"):
        stepped.generate_until([generation(PROMPT, max_gen_toks=3)], disable_tqdm=True)


def test_what_the_steps_overran_is_not_judged(parts):
    """Logits behind the answer's end may be anything."""
    _, stepped = lms(parts)
    decoder = stepped.decoder
    calls = []

    def spoil(module, args, output):
        calls.append(None)
        return output if len(calls) < 2 else output * float("nan")

    ids = parts[1](PROMPT, return_tensors="pt").input_ids
    prefill(decoder, ids, room=8)
    handle = parts[0].lm_head.register_forward_hook(spoil)
    try:
        (answer,) = decoder.decode([Ask(ids, 8, ended=lambda answer: True)])
        assert len(answer) == 1
        assert len(calls) == graph.STEPS
    finally:
        handle.remove()


def test_the_try_out_accepts_a_good_step_and_notices_a_wrong_one(parts, monkeypatch):
    for rows in (1, 3):
        assert StepDecoder(parts[0], capture=False, rows=rows).try_out() is None
    original = graph.static_decode_torch

    def blind(query, key, value, length, *, scale):
        return original(query, key, value, length - 8, scale=scale)

    monkeypatch.setattr(graph, "static_decode_torch", blind)
    monkeypatch.setattr(graph, "ROUNDING", 1e-4)  # random models hardly attend to anything
    for rows in (1, 3):
        decoder = StepDecoder(parts[0], capture=False, rows=rows)
        assert "differs from a forward pass" in decoder.try_out()


def test_without_a_gpu_generate_decodes_and_the_reason_is_kept(parts):
    assert choose_decoder(parts[0], "auto") == (None, "generate (no GPU)")
    assert choose_decoder(parts[0], "generate") == (None, "generate (as asked for)")
    with pytest.raises(CheckpointError, match=r"decode=graph cannot be had, no GPU: use decode=auto"):
        choose_decoder(parts[0], "graph")


def test_several_together_are_steps_on_a_cpu_and_an_error_where_they_cannot_be(parts, tmp_path):
    decoder, recorded = choose_decoder(parts[0], "auto", 3)
    assert (decoder.rows, decoder.capture, recorded) == (3, False, "steps, 3 together")
    with pytest.raises(CheckpointError, match="decode=graph cannot be had, no GPU"):
        choose_decoder(parts[0], "graph", 3)
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    stretched = load(tiny_llama(tmp_path, rope_parameters=dynamic))
    with pytest.raises(CheckpointError, match=r"RoPE adapts .*: use decode_together=1"):
        choose_decoder(stretched, "auto", 3)


PROMPTS = [PROMPT * 3, "Key: ab", PROMPT, PROMPT[:5], PROMPT * 2, "value", PROMPT[9:]]


def asked(prompts, **settings):
    settings = {"max_gen_toks": 11, **settings}
    return [generation(prompt, i, **settings) for i, prompt in enumerate(prompts)]


def answers(lm, requests) -> dict[str, str]:
    """By prompt."""
    found = lm.generate_until(requests, disable_tqdm=True)
    return {request.args[0]: answer for request, answer in zip(requests, found, strict=True)}


def test_together_as_alone_in_any_company(parts):
    model = copy.copy(parts[0])
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.repetition_penalty = 1.8
    expected = answers(SparseHFLM(model, parts[1], PREFILLS[1]), asked(PROMPTS))
    assert len(set(expected.values())) > 3
    together = SparseHFLM(model, parts[1], PREFILLS[1], decode_together=3)
    # Other companions, other rows, and rows that stay free.
    for order in (PROMPTS, PROMPTS[::-1], PROMPTS[2:4]):
        assert answers(together, asked(order)) == {prompt: expected[prompt] for prompt in order}
    stats = [together.stats["task", i] for i in range(3)]
    assert all(one.prefill_s > 0 and one.density is not None for one in stats)
    assert stats[0].decode_s == stats[1].decode_s != stats[2].decode_s > 0


def test_each_of_several_ends_at_its_own_stop(parts, monkeypatch):
    native = SparseHFLM(*parts, PREFILLS[0])
    free = answers(native, asked(PROMPTS))
    stop = free[PROMPTS[0]][:2]
    ids = parts[1](free[PROMPTS[2]], add_special_tokens=False).input_ids
    monkeypatch.setattr(SparseHFLM, "stop_ids", lambda self: ids[3:4])
    requests = [*asked(PROMPTS[:3], until=[stop]), *asked(PROMPTS[3:], max_gen_toks=14)]
    requests += [generation(PROMPT * 4, 9, max_gen_toks=1), generation(PROMPT[3:], 10, max_gen_toks=17)]
    expected = answers(native, requests)
    lengths = {len(answer) for answer in expected.values()}
    assert len(lengths) > 3
    assert answers(SparseHFLM(*parts, PREFILLS[0], decode_together=5), requests) == expected


def test_rows_that_do_not_fit_name_how_many_would(parts, monkeypatch):
    lm = SparseHFLM(*parts, PREFILLS[0], decode_together=8)
    layer = lm.decoder.fill(0).layers[0]
    row = 2 * 2 * layer.keys[0].numel() * 4  # layers, keys and values, bytes
    assert row == BUCKET * buffers.row_bytes(parts[0].config, torch.float32)
    lm.decoder.release()
    monkeypatch.setattr(graph, "free_memory", lambda device: 3.5 * row)
    with pytest.raises(OutOfMemory, match=r"decode_together=8 needs 8 caches .*decode_together=3 fits"):
        lm.generate_until(asked(PROMPTS), disable_tqdm=True)
    with pytest.raises(OutOfMemory, match="decode_together=8 needs"):
        choose_decoder(parts[0], "auto", 8)
    monkeypatch.setattr(graph, "free_memory", lambda device: 8 * row)
    assert all(lm.generate_until(asked(PROMPTS[:2], max_gen_toks=1), disable_tqdm=True))


class OnGpu:
    """A model that says it is on a GPU."""

    def __init__(self, model):
        self.model, self.config = model, model.config
        self.device = torch.device("cuda")

    def __getattr__(self, name):
        return getattr(self.model, name)


def test_models_whose_step_cannot_be_captured_are_told_apart(tmp_path):
    assert why_not(OnGpu(load(tiny_llama(tmp_path / "plain")))) is None
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    stretched = load(tiny_llama(tmp_path / "dynamic", rope_parameters=dynamic))
    assert why_not(OnGpu(stretched)) == "its RoPE adapts to the text's length"
    narrow = load(tiny_llama(tmp_path / "narrow", head_dim=32))
    assert why_not(OnGpu(narrow)) == "the kernel does not take heads of 32"
    kinds = ["sliding_attention", "full_attention"]
    shape = {**SHAPE, "head_dim": 64, "sliding_window": 8, "layer_types": kinds}
    assert "window" in why_not(OnGpu(Gemma3ForCausalLM(Gemma3TextConfig(**shape))))


def load(path):
    return AutoModelForCausalLM.from_pretrained(path).eval()
