"""Captured decoding against ``generate`` on a GPU: equal answers, and how much faster.

``pytest -s tests/gpu/test_decode.py`` prints tokens per second of both.
"""

from __future__ import annotations

import time

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.choice import choose_decoder
from rr_bench.model.decoding import Ask
from rr_bench.model.graph import StepDecoder
from rr_bench.model.lm import SparseHFLM
from tests.test_lm import generation
from tests.tiny import SHAPE, tiny_tokenizer

pytestmark = pytest.mark.gpu

FULL = SparsePrefill(FullAttention(), NO_KEEP)
LINE = "Key: 1f4c\nCorresponding value: the special magic number\n"
SHAPES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen2, heads of 128": (Qwen2ForCausalLM, Qwen2Config, {"hidden_size": 512}),
    "llama without GQA": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 4}),
}


def build(name: str, dtype: torch.dtype, **changes) -> PreTrainedModel:
    model, config, own = SHAPES[name]
    torch.manual_seed(0)
    made = model(config(**{**SHAPE, **own, **changes})).to("cuda", dtype).eval()
    made.generation_config.repetition_penalty = 1.05
    return made


@pytest.mark.parametrize("name", list(SHAPES))
def test_graph_and_generate_give_the_same_tokens(tmp_path, name):
    # In float32, where no two tokens are as good as each other.
    model, tokenizer = build(name, torch.float32), tiny_tokenizer(tmp_path)
    graph = SparseHFLM(model, tokenizer, FULL, decode="graph")
    native = SparseHFLM(model, tokenizer, FULL, decode="generate")
    assert graph.decoding == "graph"
    # Short and long in turn, and beyond the first buffers.
    prompts = [LINE * lines for lines in (1, 40, 3, 200, 20)]
    requests = [generation(prompt, i, max_gen_toks=20) for i, prompt in enumerate(prompts)]
    answers = graph.generate_until(requests, disable_tqdm=True)
    assert answers == native.generate_until(requests, disable_tqdm=True)
    assert len(set(answers)) > 1
    together = SparseHFLM(model, tokenizer, FULL, decode_together=3)
    assert together.decoding == "graph, 3 together"
    assert together.generate_until(requests, disable_tqdm=True) == answers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_try_out(dtype):
    assert choose_decoder(build("llama", dtype), "auto")[1] == "graph"
    assert choose_decoder(build("llama", dtype), "auto", 4)[1] == "graph, 4 together"


def test_a_rows_logits_are_the_same_bit_for_bit_in_any_company(tmp_path):
    """In bfloat16, where another kernel or another order of sums would show."""
    decoder = StepDecoder(build("qwen2, heads of 128", torch.bfloat16), capture=True, rows=8)
    tokens = torch.randint(1000, (9, 5000), generator=torch.Generator().manual_seed(0)).cuda()
    prompts = [tokens[i : i + 1, :length] for i, length in enumerate((700, 9, 4999, 4000, 33, 512))]

    def logits(order):
        decoder.reserve(5008)
        for row, i in enumerate(order):
            decoder.model.base_model(
                prompts[i][:, :-1], past_key_values=decoder.fill(row), use_cache=True
            )
        found = decoder.decode([Ask(prompts[i], 6) for i in order])
        return dict(
            zip(order, zip(found, decoder._reserved().logits.clone(), strict=False), strict=True)
        )

    with torch.no_grad():
        whole = logits([0, 1, 2, 3, 4, 5])
        for order in ([5, 4, 3, 2, 1, 0], [1], [0, 3]):
            for i, (answer, last) in logits(order).items():
                assert answer == whole[i][0] and torch.equal(last, whole[i][1])


def test_a_captured_step_is_used_again(tmp_path):
    model, tokenizer = build("llama", torch.bfloat16), tiny_tokenizer(tmp_path)
    lm = SparseHFLM(model, tokenizer, FULL, decode="graph")
    lm.generate_until([generation(LINE * 9, max_gen_toks=5)], disable_tqdm=True)
    first = lm.decoder._graph
    lm.generate_until([generation(LINE * 30, max_gen_toks=9)], disable_tqdm=True)
    assert lm.decoder._graph is first


def test_tokens_per_second(capsys):
    # The shape of Qwen2.5-0.5B.
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to("cuda", torch.bfloat16).eval()
    prompt = torch.randint(9, 150000, (1, 8000), device="cuda")
    seconds = {}
    for rows, name in ((1, "graph"), (8, "graph, 8 together")):
        decoder = StepDecoder(model, capture=True, rows=rows)
        decoder.reserve(8192)
        for _ in range(2):  # the first captures
            with torch.no_grad():
                for row in range(rows):
                    cache = decoder.fill(row)
                    model.base_model(prompt[:, :-1], past_key_values=cache, use_cache=True)
                torch.cuda.synchronize()
                start = time.perf_counter()
                decoder.decode([Ask(prompt, 128)] * rows)
                seconds[name] = (time.perf_counter() - start) / rows
    for tokens in (1, 129):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        torch.cuda.synchronize()
        seconds[tokens] = time.perf_counter() - start
    seconds["generate"] = seconds[129] - seconds[1]
    with capsys.disabled():
        for name in ("graph", "graph, 8 together", "generate"):
            print(f"\n{name}: {128 / seconds[name]:.0f} tokens/s at 8,000 tokens", end="")
    assert seconds["graph, 8 together"] < seconds["graph"] < seconds["generate"]
