"""SparseHFLM: Hugging Face's generations, stock HFLM's log-likelihoods, one prefill per document."""

from __future__ import annotations

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import rr_bench.model.lm
from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import RR_KEEP
from method.rr import RRAttention
from rr_bench.model.lm import OutOfMemory, SparseHFLM
from rr_bench.model.shared_prefill import plan_passages
from tests.tiny import tiny_llama, tiny_qwen2

FULL = SparsePrefill(FullAttention(), RR_KEEP)
SPARSE = SparsePrefill(RRAttention(tau=0.5), RR_KEEP)
PROMPT = "Key: 1f4c\nCorresponding value: the special magic number\n" * 12
GREEDY = {"until": [], "do_sample": False, "temperature": 0.0}


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def parts(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    (tiny_llama if request.param == "llama" else tiny_qwen2)(path)
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


@pytest.fixture
def lm(parts):
    return SparseHFLM(*parts, FULL)


@pytest.fixture
def seen(monkeypatch):
    """The recorders of all prefills, in order."""
    recorders = []
    original = rr_bench.model.lm.sparse_prefill

    class Spy:
        def __init__(self, *args):
            self.inner = original(*args)

        def __enter__(self):
            recorders.append(self.inner.__enter__())
            return recorders[-1]

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    monkeypatch.setattr(rr_bench.model.lm, "sparse_prefill", Spy)
    return recorders


def generation(prompt: str, doc: int = 0, **settings) -> Instance:
    return Instance("generate_until", {}, (prompt, {**GREEDY, **settings}), 0, ("task", doc, 1))


def nested_requests(questions: int = 20) -> list[Instance]:
    values = [f"{i * 104729:06x}-{i * 7919:05x}" for i in range(1, questions + 1)]
    text = "".join(f"Key: {i * 31:04x}\nCorresponding value: {v}\n\n" for i, v in enumerate(values))
    pairs = [(text[: text.index(f" {value}\n")], f" {value}") for value in values]
    return [
        Instance("loglikelihood", {}, pair, index, ("task", 0, 1)) for index, pair in enumerate(pairs)
    ]


def test_generation_equals_generate_of_the_model(lm, parts):
    model, tokenizer = parts
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    found = lm.generate_until([generation(PROMPT, max_gen_toks=10)], disable_tqdm=True)
    assert found == [tokenizer.decode(expected, skip_special_tokens=True)]
    stats = lm.stats["task", 0]
    assert stats.input_tokens == ids.shape[1]
    assert (stats.density, stats.density_by_layer) == (1.0, [1.0, 1.0])
    assert stats.prefill_s > 0 and stats.decode_s > 0


def test_last_prompt_token_is_left_to_dense_decode(lm, parts, seen):
    lm.prefill = SPARSE
    lm.generate_until([generation(PROMPT, max_gen_toks=3)], disable_tqdm=True)
    tokens = len(parts[1](PROMPT).input_ids)
    assert seen[0].query_tokens == [tokens - 1] * 2


def test_a_prompt_of_one_token_has_no_prefill(lm, parts):
    prompt = "" if parts[1]("").input_ids else "a"
    lm.generate_until([generation(prompt, max_gen_toks=2)], disable_tqdm=True)
    assert lm.stats["task", 0].input_tokens == 1
    assert lm.stats["task", 0].density is None


def test_answers_keep_the_order_of_the_requests(lm):
    prompts = ["Key: ab" * 9, "value", "The special magic number" * 5]
    requests = [generation(prompt, i, max_gen_toks=4) for i, prompt in enumerate(prompts)]
    together = lm.generate_until(requests, disable_tqdm=True)
    alone = [lm.generate_until([request], disable_tqdm=True)[0] for request in requests]
    assert together == alone
    assert set(lm.stats) == {("task", 0), ("task", 1), ("task", 2)}


def test_stop_strings_end_and_are_cut(lm):
    free = lm.generate_until([generation(PROMPT, max_gen_toks=12)], disable_tqdm=True)[0]
    stop = free[len(free) // 2 :][:2]
    found = lm.generate_until([generation(PROMPT, max_gen_toks=12, until=[stop])], disable_tqdm=True)
    assert found == [free[: free.index(stop)]]


def test_eos_ids_come_from_the_generation_config(lm, parts, monkeypatch):
    model, tokenizer = parts
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    first = model.generate(ids, max_new_tokens=1, do_sample=False)[0, -1].item()
    monkeypatch.setattr(model.generation_config, "eos_token_id", [first, tokenizer.eos_token_id])
    assert lm.stop_ids() == sorted({first, tokenizer.eos_token_id})
    found = lm.generate_until([generation(PROMPT, max_gen_toks=9)], disable_tqdm=True)
    assert found == [tokenizer.decode([first], skip_special_tokens=True)]


def test_newline_stop_adds_newline_tokens(parts):
    vocabulary = parts[1].get_vocab()
    off, on = SparseHFLM(*parts, FULL), SparseHFLM(*parts, FULL, newline_stop=True)
    assert vocabulary["Ċ"] not in off.stop_ids()
    assert vocabulary["Ċ"] in on.stop_ids()


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}])
def test_other_than_greedy_is_refused(lm, settings):
    with pytest.raises(ValueError, match="greedy"):
        lm.generate_until([generation(PROMPT, **settings)], disable_tqdm=True)


def test_too_long_prompts_raise_and_are_not_cut(parts):
    lm = SparseHFLM(*parts, FULL, max_length=50)
    with pytest.raises(ValueError, match="lower `lengths`"):
        lm.generate_until([generation(PROMPT)], disable_tqdm=True)
    with pytest.raises(ValueError, match="lower `lengths`"):
        lm.loglikelihood(nested_requests(), disable_tqdm=True)


def test_nested_requests_equal_stock_hflm_in_one_forward(lm, parts, seen):
    requests = nested_requests()
    stock = HFLM(pretrained=parts[0], tokenizer=parts[1], batch_size=1)
    expected = stock.loglikelihood(requests, disable_tqdm=True)
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [ll for ll, _ in found] == pytest.approx([ll for ll, _ in expected], rel=1e-4)
    assert len(seen) == 1
    text = "".join(requests[-1].args)
    assert seen[0].query_tokens == [len(parts[1](text).input_ids) - 1] * 2


def test_is_greedy_needs_every_token_to_be_the_first_choice(lm, parts):
    model, tokenizer = parts
    favourite = tokenizer(" magic", add_special_tokens=False).input_ids
    assert len(favourite) == 1

    def prefer(module, args, output):
        output[..., favourite[0]] += 1e4
        return output

    ends = [" magic", " magic magic", " magic number", " number"]
    requests = [
        Instance("loglikelihood", {}, ("The special", end), i, ("task", i, 1))
        for i, end in enumerate(ends)
    ]
    handle = model.lm_head.register_forward_hook(prefer)
    try:
        answers = lm.loglikelihood(requests, disable_tqdm=True)
    finally:
        handle.remove()
    assert [greedy for _, greedy in answers] == [True, True, False, False]


def test_unrelated_requests_of_one_document_get_their_own_pass(lm, parts, seen):
    pairs = [("Key: 12 value:", " ab"), ("Key: 77 value:", " ef and more of it")]
    requests = [Instance("loglikelihood", {}, pair, i, ("task", 0, 1)) for i, pair in enumerate(pairs)]
    stock = HFLM(pretrained=parts[0], tokenizer=parts[1], batch_size=1)
    expected = stock.loglikelihood(requests, disable_tqdm=True)
    found = lm.loglikelihood(requests, disable_tqdm=True)
    assert [ll for ll, _ in found] == pytest.approx([ll for ll, _ in expected], rel=1e-4)
    assert (len(seen), lm.stats["task", 0].passes) == (2, 2)


def test_a_split_inside_a_token_falls_back_to_single_passes(lm):
    text = "The special magic number"
    pairs = [(text[:6], text[6:14]), (text[:14], text[14:])]
    passages = plan_passages(pairs, lm)
    assert len(passages) == 2
    whole = plan_passages([("The special", " magic"), ("The special magic", " number")], lm)
    assert len(whole) == 1


def test_empty_context_uses_the_prefix_token(lm, parts):
    request = Instance("loglikelihood", {}, ("", "The special"), 0, ("task", 0, 1))
    stock = HFLM(pretrained=parts[0], tokenizer=parts[1], batch_size=1)
    expected = stock.loglikelihood([request], disable_tqdm=True)
    assert lm.loglikelihood([request], disable_tqdm=True)[0][0] == pytest.approx(
        expected[0][0], rel=1e-4
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_memory_errors_name_the_prompt_length(lm, parts, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(parts[0].base_model, "forward", fail)
    tokens = len(parts[1](PROMPT).input_ids)
    with pytest.raises(OutOfMemory, match=f"{tokens} tokens"):
        lm.generate_until([generation(PROMPT)], disable_tqdm=True)


def test_other_runtime_errors_are_not_called_memory(lm, parts, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(parts[0].base_model, "forward", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        lm.generate_until([generation(PROMPT)], disable_tqdm=True)


def test_rolling_perplexity_is_not_offered(lm):
    with pytest.raises(NotImplementedError, match="generate_until and loglikelihood"):
        lm.loglikelihood_rolling([])
