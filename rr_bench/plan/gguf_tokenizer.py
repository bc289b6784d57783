"""The tokenizer that a GGUF file describes in its ``tokenizer.ggml`` fields.

A byte-level BPE is built here from the fields: transformers 5.17 reads the vocabulary and the merges,
but not the rule that splits a text before them (``pre``: SmolLM2's digits), swaps BOS and EOS of
Llama-like models (``integrations/ggml.py``) and leaves out most special tokens of Qwen2. A
SentencePiece vocabulary is read by transformers, and its special tokens are corrected. Names of the
rules are llama.cpp's (``llama-vocab.cpp``); the patterns are those of the publishers' tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Fields = Mapping[str, Any]

CONTROL, USER_DEFINED = 3, 4
"""Kinds of token in ``token_type`` that are never the result of merges."""

END_OF_TURN = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>"),
    *("<end_of_turn>", "</s>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
)
"""Names of special tokens that end an answer, whichever of them the file calls EOS."""

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = rf"{_LETTERS}|\p{{N}}|{_REST}"
LLAMA3 = rf"{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"

SPLITS: dict[str, tuple[str, ...]] = {
    "gpt2": ("gpt-2", "olmo"),
    "digits": ("smollm", "starcoder"),
    "qwen2": ("qwen2", "deepseek-r1-qwen"),
    "llama3": ("llama-bpe", "llama3", "llama-v3"),
}
"""Ways to split a text before the merges, and their names in GGUF files."""


class TokenizerError(ValueError):
    """The file's tokenizer is missing or of a kind that cannot be rebuilt."""


def build_tokenizer(fields: Fields, file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, with its special tokens and chat template.

    Args:
        fields: the file's metadata.
        file: the file itself, which transformers reads for a SentencePiece vocabulary.

    Raises:
        TokenizerError: there is none, or its rules are not known here.
    """
    tokens, kind = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.model")
    if not tokens:
        raise TokenizerError("the file has no tokenizer")
    special = {name: _token(fields, key) for name, key in _SPECIAL.items()}
    special["pad_token"] = special["pad_token"] or special["eos_token"]
    if kind == "gpt2":
        split = _split_name(fields)
        backend = _byte_level_bpe(fields, split)
    elif kind == "llama":
        split = "sentencepiece"
        backend = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).backend_tokenizer
    else:
        raise TokenizerError(f"its tokenizer is of the kind {kind!r}; gpt2 and llama are supported")
    add_bos = fields.get("tokenizer.ggml.add_bos_token", split in ("sentencepiece", "llama3"))
    bos = special["bos_token"]
    backend.post_processor = (
        processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
        if add_bos and bos is not None
        else processors.ByteLevel(trim_offsets=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def stop_token_ids(fields: Fields) -> list[int]:
    """Ids that end an answer: the file's EOS and end-of-turn tokens, and special ones known by name."""
    told = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    kinds = fields.get("tokenizer.ggml.token_type") or []
    named = [
        index
        for index, (token, kind) in enumerate(zip(fields["tokenizer.ggml.tokens"], kinds, strict=False))
        if kind in (CONTROL, USER_DEFINED) and token in END_OF_TURN
    ]
    return sorted({*(int(index) for index in told if index is not None), *named})


_SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "pad_token": "padding",
}


def _token(fields: Fields, key: str) -> str | None:
    """The special token that a field names by its id."""
    index = fields.get(f"tokenizer.ggml.{key}_token_id")
    tokens = fields["tokenizer.ggml.tokens"]
    if index is None:
        return None
    if not 0 <= index < len(tokens):
        raise TokenizerError(f"its {key} token has id {index} of {len(tokens)} tokens")
    return str(tokens[index])


def _split_name(fields: Fields) -> str:
    rule = fields.get("tokenizer.ggml.pre")
    for name, rules in SPLITS.items():
        if rule in rules:
            return name
    known = ", ".join(rule for rules in SPLITS.values() for rule in rules)
    raise TokenizerError(
        f"its tokenizer splits texts by the rule {rule!r}, which is not known here (known: {known}): "
        "take the publisher's safetensors"
    )


def _byte_level_bpe(fields: Fields, split: str) -> Tokenizer:
    """Vocabulary, merges and special tokens as one tokenizer, without anything added to a text."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("tokenizer.ggml.merges") or []]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=split == "llama3"))
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=split in ("gpt2", "digits")
    )
    first: dict[str, Any] = {
        "gpt2": None,
        "digits": pre_tokenizers.Digits(individual_digits=True),
        "qwen2": pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        "llama3": pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
    }
    before = [] if first[split] is None else [first[split]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level])
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type") or []
    for token, kind in zip(tokens, kinds, strict=False):
        if kind in (CONTROL, USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kind == CONTROL)
            tokenizer.add_special_tokens([added]) if kind == CONTROL else tokenizer.add_tokens([added])
    return tokenizer
