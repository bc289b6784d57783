"""The video probe's starting point: a random model with the steps of a lookup already wired.

A question is answered in four layers. Layer 0 looks back one to four words. In layer 1 the question
mark, which knows the three words of the key by then, finds the video tokens of that card and copies
their digit. Layer 2 brings the digit to the word before the answer. Layer 3 finds the option with that
digit and copies the letter before it. From a random start no step pays without the others. Everything
stays trainable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention

from rr_bench.probe.video.channels import (
    CARRIED,
    CHANNELS,
    CONSTANT,
    FLAG,
    KINDS,
    SLOTS,
    codes,
    slot,
    slot_codes,
)
from rr_bench.probe.video.tokenizer import VISION_START, build_tokenizer
from rr_bench.tasks.prompts.card_questions import CHOOSE, OPEN

HALF = 32
"""Rotary pairs of a head of 64; pair ``i`` is the channels ``i`` and ``i + 32``."""
NEAR = range(8)
"""Pairs of the time section: they tell neighbouring tokens apart."""
CONTENT = (*range(18, 31), *range(18 + HALF, 31 + HALF))
"""Channels slow enough to compare contents rather than distances."""
SHARP = math.sqrt(80.0)
"""Query and key bias of a look-back: ten logits a pair."""
BACK = {OPEN: 1, CHOOSE: 9}
"""Words from the question mark to the word before the answer."""


@torch.no_grad()
def prepare(model: Qwen2VLForConditionalGeneration, seed: int) -> None:
    """Overwrite the embedding and half of each layer's attention in place."""
    words, carried = codes(seed), slot_codes(seed)
    text = model.model.language_model
    _embed(text.embed_tokens.weight, words)
    angles = text.rotary_emb.inv_freq.float()
    attentions = [layer.self_attn for layer in text.layers]
    for attention in attentions:  # what is left random is quiet at first
        attention.o_proj.weight.mul_(0.1)
    _look_back(attentions[0], angles)
    _carry(attentions[0], words, carried)
    _find_card(attentions[1], words, carried)
    _copy_digit(attentions[1], words, gain=0.07)
    _bring_digit(attentions[2], words, angles)
    _copy_digit(attentions[2], words, gain=0.075)
    _find_option(attentions[3], words, carried, angles)
    for layer in text.layers:
        layer.mlp.down_proj.weight.div_(math.sqrt(2 * len(text.layers)))


def _embed(weight: Tensor, words: dict[str, Tensor]) -> None:
    vocabulary = build_tokenizer().get_vocab()
    weight.zero_()
    weight[:, CONSTANT] = 1.0
    for kind, members in KINDS.items():
        for word, code in zip(members, words[kind], strict=True):
            weight[vocabulary[word], CHANNELS[kind]] = code


def _phase(angles: Tensor, pairs: range, distance: float) -> Tensor:
    """A query that meets a key of ones best at a distance: ``[64]``."""
    query = torch.zeros(2 * HALF)
    at = torch.tensor(list(pairs))
    query[at] = torch.cos(angles[at] * distance)
    query[at + HALF] = -torch.sin(angles[at] * distance)
    return query


def _ones(pairs: range) -> Tensor:
    key = torch.zeros(2 * HALF)
    key[list(pairs)] = 1.0
    return key


def _look_back(attention: Qwen2VLAttention, angles: Tensor) -> None:
    """Head ``h`` of layer 0 looks ``h + 1`` tokens back, whatever they are."""
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.zero_()
    for head, bias in enumerate(attention.q_proj.bias.view(-1, 2 * HALF)):
        bias.copy_(SHARP * _phase(angles, NEAR, head + 1))
    for bias in attention.k_proj.bias.view(-1, 2 * HALF):
        bias.copy_(SHARP * _ones(NEAR))


def _carry(attention: Qwen2VLAttention, words: dict[str, Tensor], carried: dict[str, Tensor]) -> None:
    """Values of layer 0 are the words' codes for slots; head ``h`` writes to slot ``h``."""
    attention.v_proj.weight.zero_()
    attention.o_proj.weight.zero_()
    for value in attention.v_proj.weight.view(-1, 2 * HALF, attention.v_proj.in_features):
        for kind in CARRIED:
            value[: carried[kind].shape[1], CHANNELS[kind]] = carried[kind].T @ words[kind]
    for head in range(SLOTS):
        rows = attention.o_proj.weight[slot(head)]
        rows[:, head * 2 * HALF : head * 2 * HALF + len(rows)] = 0.6 / 13.9 * torch.eye(len(rows))


def _find_card(
    attention: Qwen2VLAttention, words: dict[str, Tensor], carried: dict[str, Tensor]
) -> None:
    """Layer 1: the three words before against the key of a card, or else the first token."""
    query, key = (torch.zeros(2 * HALF, attention.q_proj.in_features) for _ in range(2))
    at = 0
    for kind, number in (("ground", 2), ("colour", 1), ("shape", 0)):
        rows = list(CONTENT[at : at + len(KINDS[kind])])
        query[rows, slot(number)] = 1.0 * carried[kind]
        key[rows, CHANNELS[kind]] = 1.0 * words[kind]
        at += len(rows)
    key[CONTENT[at], FLAG] = 0.7
    first = words["other"][KINDS["other"].index(VISION_START)]
    key[CONTENT[at + 1], CHANNELS["other"]] = first
    _put(attention, query, key)
    for bias in attention.q_proj.bias.view(-1, 2 * HALF)[:2]:
        bias[[CONTENT[at], CONTENT[at + 1]]] = torch.tensor([8.0, 6.0])


def _bring_digit(attention: Qwen2VLAttention, words: dict[str, Tensor], angles: Tensor) -> None:
    """Layer 2: the word before an answer looks back at the question mark."""
    query = torch.zeros(2 * HALF, attention.q_proj.in_features)
    for word, distance in BACK.items():
        code = words["other"][KINDS["other"].index(word)]
        query[:, CHANNELS["other"]] += SHARP / 9.0 * torch.outer(_phase(angles, NEAR, distance), code)
    _put(attention, query, torch.zeros_like(query))
    attention.k_proj.bias.view(-1, 2 * HALF)[0] = SHARP * _ones(NEAR)


def _find_option(
    attention: Qwen2VLAttention, words: dict[str, Tensor], carried: dict[str, Tensor], angles: Tensor
) -> None:
    """Layer 3: the near word that has the digit and a letter before it; copies that letter."""
    query, key = (torch.zeros(2 * HALF, attention.q_proj.in_features) for _ in range(2))
    rows = list(CONTENT[: len(KINDS["digit"])])
    query[rows, CHANNELS["digit"]] = 0.9 * words["digit"]
    key[rows, CHANNELS["digit"]] = 0.9 * words["digit"]
    lettered = CONTENT[len(rows)]
    key[lettered, slot(0)] = carried["letter"].sum(0)
    _put(attention, query, key)
    near = range(4, 9)
    for bias in attention.q_proj.bias.view(-1, 2 * HALF)[:2]:
        bias.copy_(SHARP * _phase(angles, near, 4))
        bias[lettered] = 8.0
    attention.k_proj.bias.view(-1, 2 * HALF)[0] = SHARP * _ones(near)
    value = attention.v_proj.weight[: 2 * HALF]
    value.zero_()
    letters = len(KINDS["letter"])
    value[:letters, slot(0)] = carried["letter"]
    for head in range(2):
        columns = slice(head * 2 * HALF, head * 2 * HALF + letters)
        attention.o_proj.weight[CHANNELS["letter"], columns] = 0.16 * words["letter"].T


def _copy_digit(attention: Qwen2VLAttention, words: dict[str, Tensor], gain: float) -> None:
    """The digit of what is found, added to the digit's channels."""
    value = attention.v_proj.weight[: 2 * HALF]
    value.zero_()
    digits = len(KINDS["digit"])
    value[:digits, CHANNELS["digit"]] = words["digit"]
    for head in range(2):
        columns = slice(head * 2 * HALF, head * 2 * HALF + digits)
        attention.o_proj.weight[CHANNELS["digit"], columns] = gain * words["digit"].T


def _put(attention: Qwen2VLAttention, query: Tensor, key: Tensor) -> None:
    """The same query for both heads of the first KV head, and its key."""
    attention.k_proj.weight[: 2 * HALF] = key
    for rows in attention.q_proj.weight.view(-1, *query.shape)[:2]:
        rows.copy_(query)
