"""SparseHFLM: Hugging Face's generations, stock HFLM's log-likelihoods, one prefill per document."""

from __future__ import annotations

import copy

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import rr_bench.model.lm
from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import RR_KEEP
from method.rr import RRAttention
from rr_bench.model.decoding import NotFinite
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.memory import OutOfMemory
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


def test_a_chat_prompt_brings_its_own_special_tokens(lm, parts):
    """ChatML on a tokenizer with BOS: HELMET adds none, and the row counts none."""
    _, tokenizer = parts
    for doc, bos in (({}, 1), ({"chat": False}, 1), ({"chat": True}, 0)):
        request = Instance(
            "generate_until", doc, (PROMPT, {**GREEDY, "max_gen_toks": 1}), 0, ("t", 0, 1)
        )
        lm.generate_until([request], disable_tqdm=True)
        plain = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
        own = len(tokenizer(PROMPT)["input_ids"]) - len(plain)  # Qwen2 has no BOS
        assert lm.stats["t", 0].input_tokens == len(plain) + bos * own


def test_newline_stop_adds_newline_tokens(parts):
    vocabulary = parts[1].get_vocab()
    off, on = SparseHFLM(*parts, FULL), SparseHFLM(*parts, FULL, newline_stop=True)
    assert vocabulary["Ċ"] not in off.stop_ids()
    assert vocabulary["Ċ"] in on.stop_ids()


@pytest.mark.parametrize(
    "own",
    [
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 2, "length_penalty": 3.0},
        {"do_sample": True, "temperature": 0.6, "top_k": 20},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 8},
        {"suppress_tokens": list(range(3, 500))},
        {"encoder_repetition_penalty": 3.0},
        {"forced_eos_token_id": 5},
        {"guidance_scale": 2.0},
        {"max_length": 3},
    ],
    ids=lambda own: next(iter(own)),
)
def test_the_checkpoints_generation_config_cannot_change_greedy_decoding(parts, own):
    tokenizer = parts[1]
    model = copy.copy(parts[0])
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    expected = parts[0].generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    model.generation_config = GenerationConfig(**own, eos_token_id=tokenizer.eos_token_id)
    found = SparseHFLM(model, tokenizer, FULL).generate_until(
        [generation(PROMPT, max_gen_toks=10)], disable_tqdm=True
    )
    assert found == [tokenizer.decode(expected, skip_special_tokens=True)]


def test_the_checkpoints_repetition_penalty_stays(parts):
    tokenizer = parts[1]
    model = copy.copy(parts[0])
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    plain = parts[0].generate(ids, max_new_tokens=10, do_sample=False)
    model.generation_config = GenerationConfig(repetition_penalty=1.8)
    expected = model.generate(ids, max_new_tokens=10, do_sample=False)
    assert not torch.equal(expected, plain)
    found = SparseHFLM(model, tokenizer, FULL).generate_until(
        [generation(PROMPT, max_gen_toks=10)], disable_tqdm=True
    )
    assert found == [tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)]


def test_without_any_eos_an_answer_runs_to_its_budget(parts):
    model, tokenizer = copy.copy(parts[0]), copy.deepcopy(parts[1])
    tokenizer.eos_token = None
    model.generation_config = GenerationConfig(eos_token_id=None)
    lm = SparseHFLM(model, tokenizer, FULL)
    assert lm.stop_ids() == []
    text = lm.generate_until([generation(PROMPT, max_gen_toks=7)], disable_tqdm=True)[0]
    assert text


def test_a_tokenizer_without_bos_and_eos_works(parts):
    model, plain = copy.copy(parts[0]), parts[1]
    tokenizer = copy.deepcopy(plain)
    tokenizer.bos_token = tokenizer.eos_token = None
    lm = SparseHFLM(model, tokenizer, FULL)
    assert lm.prefix_token_id is None
    assert lm.tok_encode(PROMPT) == plain(PROMPT).input_ids
    assert lm.generate_until([generation(PROMPT, max_gen_toks=4)], disable_tqdm=True) == SparseHFLM(
        model, plain, FULL
    ).generate_until([generation(PROMPT, max_gen_toks=4)], disable_tqdm=True)
    nested = nested_requests()
    expected = SparseHFLM(model, plain, FULL).loglikelihood(nested, disable_tqdm=True)
    assert lm.loglikelihood(nested, disable_tqdm=True) == expected
    alone = Instance("loglikelihood", {}, ("", "The special"), 0, ("task", 0, 1))
    with pytest.raises(ValueError, match="neither BOS nor EOS"):
        lm.loglikelihood([alone], disable_tqdm=True)


@pytest.fixture
def broken(parts, request):
    """The model with one kind of number that is none."""
    model = copy.deepcopy(parts[0])
    with torch.no_grad():
        if request.param == "embedding":
            model.get_input_embeddings().weight[:, 0] = float("nan")
        elif request.param == "head":
            model.lm_head.weight[7] = float("inf")
        elif request.param == "value":
            model.model.layers[0].self_attn.v_proj.weight[0, 0] = float("nan")
        else:
            model.model.layers[1].mlp.down_proj.weight[3] = float("-inf")
    return model


@pytest.mark.parametrize("broken", ["embedding", "head", "value", "layer"], indirect=True)
def test_logits_that_are_not_finite_are_an_error(broken, parts):
    lm = SparseHFLM(broken, parts[1], FULL)
    with pytest.raises(NotFinite, match="weights"):
        lm.generate_until([generation(PROMPT, max_gen_toks=3)], disable_tqdm=True)
    with pytest.raises(NotFinite, match="weights"):
        lm.loglikelihood(nested_requests(), disable_tqdm=True)


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}])
def test_other_than_greedy_is_refused(lm, settings):
    with pytest.raises(ValueError, match="greedy"):
        lm.generate_until([generation(PROMPT, **settings)], disable_tqdm=True)


def test_too_long_prompts_raise_and_are_not_cut(parts):
    lm = SparseHFLM(*parts, FULL, max_length=50)
    with pytest.raises(ValueError, match=r"lower `lengths`, set data\.strict_truncation=true"):
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
