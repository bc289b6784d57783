"""RoPE keeps nothing from one sample to the next, whatever its type."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.hook import sparse_prefill
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.rotary import reset_rope
from tests.test_lm import generation
from tests.tiny import SHAPE, tiny_llama

FULL = SparsePrefill(FullAttention(), NO_KEEP)
FACTORS = [1.0 + i / 8 for i in range(32)]
ROPE = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 1e4,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0] * 32,
        "long_factor": FACTORS,
        "original_max_position_embeddings": 32,
        "rope_theta": 1e4,
    },
}


def llama(rope: dict) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {**SHAPE, "max_position_embeddings": 64, "rope_parameters": dict(rope)}
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


def ids(length: int) -> torch.Tensor:
    return torch.randint(3, 900, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def hooked_logits(model, length: int) -> torch.Tensor:
    with sparse_prefill(model, FULL):
        return model(ids(length)).logits


@pytest.mark.parametrize("kind", ROPE)
@pytest.mark.parametrize("order", [(200, 100, 20), (20, 100, 200), (100, 20, 200)])
def test_samples_give_the_same_in_any_order(kind, order):
    model = llama(ROPE[kind])
    alone = {length: hooked_logits(llama(ROPE[kind]), length) for length in order}
    for length in order:
        assert torch.equal(hooked_logits(model, length), alone[length])


def test_a_resumed_cell_answers_as_an_unbroken_one(tmp_path):
    path = tiny_llama(tmp_path, max_position_embeddings=64, rope_parameters=ROPE["dynamic"])
    requests = [
        generation("Key: 1f4c\nCorresponding value: " * times, doc, max_gen_toks=6)
        for doc, times in enumerate((12, 8))
    ]

    def answers(part):
        model = AutoModelForCausalLM.from_pretrained(path).eval()
        lm = SparseHFLM(model, AutoTokenizer.from_pretrained(path), FULL, max_length=1000)
        text = lm.generate_until(part, disable_tqdm=True)
        return text, model.model.rotary_emb.inv_freq.clone()

    (unbroken, seen), (resumed, expected) = answers(requests), answers(requests[1:])
    assert unbroken[1:] == resumed
    assert torch.equal(seen, expected)


def test_rope_of_one_layer_type_is_reset_alone():
    rope = {
        "full_attention": ROPE["dynamic"],
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    shape = {**SHAPE, "max_position_embeddings": 64, "head_dim": 64, "sliding_window": 32}
    kinds = ["sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, layer_types=kinds, rope_parameters=rope)).eval()
    before = hooked_logits(model, 100)
    changed = model.model.rotary_emb.full_attention_inv_freq.clone()
    hooked_logits(model, 200)
    assert not torch.equal(model.model.rotary_emb.full_attention_inv_freq, changed)
    assert torch.equal(hooked_logits(model, 100), before)


def test_reset_restores_frequencies_and_length():
    model = llama(ROPE["dynamic"])
    rotary = model.model.rotary_emb
    original = rotary.inv_freq.clone()
    model(ids(200))
    assert not torch.equal(rotary.inv_freq, original)
    reset_rope(model)
    assert torch.equal(rotary.inv_freq, original)
    assert rotary.max_seq_len_cached == 64
    assert "inv_freq" in rotary._buffers
