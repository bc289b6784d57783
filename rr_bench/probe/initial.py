"""The probe's starting point: a random model with the two halves of recall already wired.

Recall takes two steps at once: bring earlier tokens along, then find the place whose past matches
and copy what follows. From a random start neither step pays without the other, and training stays
for thousands of steps on the plateau of guessing any value in sight. Here layer 0 starts as heads
that look back 1 to 8 tokens, and half of layer 1 as heads that match the last three tokens and copy
the next one. Everything stays trainable, and what the templates need beyond plain copying (finding
a value's first token across the question's words, four values per key) is left to training.

The hidden state is laid out as: channel 0 constant, 1 to 255 the token, then eight slots of 32 for
the tokens looked back at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

TOKEN = slice(1, 256)
SLOT = 32
SHARP = 8.0
"""Sets a look-back head's logit: at its own distance it gets all but 0.4 % of the weight."""
POSITIONAL = 10
"""Rotary pairs, the fastest ones, that tell neighbouring tokens apart."""
CONTENT = 18
"""First rotary pair slow enough to compare contents rather than distances."""


@torch.no_grad()
def prepare(model: LlamaForCausalLM, seed: int, matches: int = 3, sharp: float = 1.6) -> None:
    """Overwrite embedding, layer 0 and the first KV head's half of layer 1 in place."""
    random = torch.Generator().manual_seed(seed)
    _embedding(model, random)
    projection = torch.randn(SLOT, 255, generator=random) / math.sqrt(255)
    _look_back(model)
    _carry(model, projection)
    _match(model, projection, random, matches, sharp)
    _copy(model, random)
    for layer in model.model.layers[1:]:
        layer.mlp.down_proj.weight.div_(math.sqrt(2 * model.config.num_hidden_layers))


def _embedding(model: LlamaForCausalLM, random: torch.Generator) -> None:
    weight = model.model.embed_tokens.weight
    tokens = torch.randn(weight.shape[0], 255, generator=random)
    weight.zero_()
    weight[:, TOKEN] = tokens / tokens.norm(dim=1, keepdim=True)
    weight[:, 0] = 0.5


def _look_back(model: LlamaForCausalLM) -> None:
    """Queries and keys of layer 0 from the constant channel alone, in phase at distance ``h + 1``."""
    attention = model.model.layers[0].self_attn
    half = attention.head_dim // 2
    constant = 0.5 * math.sqrt(512 / 1.25)
    amplitude = math.sqrt(SHARP * math.sqrt(attention.head_dim)) / constant
    angle = model.model.rotary_emb.inv_freq[:POSITIONAL].float()
    query, key = attention.q_proj.weight, attention.k_proj.weight
    query.zero_()
    key.zero_()
    for start in range(0, key.shape[0], attention.head_dim):
        key[start : start + POSITIONAL, 0] = amplitude
    for head in range(model.config.num_attention_heads):
        rows = query[head * attention.head_dim :]
        rows[:POSITIONAL, 0] = amplitude * torch.cos(angle * (head + 1))
        rows[half : half + POSITIONAL, 0] = -amplitude * torch.sin(angle * (head + 1))


def _carry(model: LlamaForCausalLM, projection: Tensor) -> None:
    """Values of layer 0 are projected tokens; head ``h`` writes them to slot ``h``."""
    attention = model.model.layers[0].self_attn
    value, out = attention.v_proj.weight, attention.o_proj.weight
    value.zero_()
    out.zero_()
    for start in range(0, value.shape[0], attention.head_dim):
        value[start : start + SLOT, TOKEN] = projection
    arrives = math.sqrt(512 / 1.25) * math.sqrt(SLOT / 255)  # norm of a projected token
    for head in range(model.config.num_attention_heads):
        rows, columns = 256 + head * SLOT, head * attention.head_dim
        out[rows : rows + SLOT, columns : columns + SLOT] = torch.eye(SLOT) * 0.6 / arrives


def _match(
    model: LlamaForCausalLM, projection: Tensor, random: torch.Generator, matches: int, sharp: float
) -> None:
    """Layer 1, KV head 0: a key's last tokens against the query's own and the ones before it."""
    attention = model.model.layers[1].self_attn
    half = attention.head_dim // 2
    content = torch.cat([torch.arange(CONTENT, half), torch.arange(CONTENT + half, 2 * half)])
    query = torch.zeros(attention.head_dim, 512)
    key = torch.zeros(attention.head_dim, 512)
    for number in range(matches):
        mix = torch.randn(len(content), SLOT, generator=random) / math.sqrt(len(content))
        behind = 256 + number * SLOT
        key[content, behind : behind + SLOT] = mix
        if number == 0:
            query[content, TOKEN] = mix @ projection * 0.6 / math.sqrt(SLOT / 255)
        else:
            query[content, behind - SLOT : behind] = mix
    attention.k_proj.weight[: attention.head_dim] = sharp * key
    for head in range(attention.num_key_value_groups):
        rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        attention.q_proj.weight[rows] += sharp * query


def _copy(model: LlamaForCausalLM, random: torch.Generator, gain: float = 0.35) -> None:
    """Layer 1, KV head 0: the token at the matched place, added to the token channels."""
    attention = model.model.layers[1].self_attn
    projection = torch.randn(attention.head_dim, 255, generator=random) / math.sqrt(255)
    value = attention.v_proj.weight[: attention.head_dim]
    value.zero_()
    value[:, TOKEN] = projection
    for head in range(attention.num_key_value_groups):
        columns = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        attention.o_proj.weight[TOKEN, columns] += gain * projection.T
