"""Tiny random models and a tiny tokenizer, saved as ordinary Hugging Face directories.

Everything is made here, so no test needs the network: a byte-level BPE is trained on the Recall
templates' own text, and the models are random with a fixed seed. All have 2 layers, 4 query and
2 KV heads of size 64.
"""

from __future__ import annotations

import functools
import random
import uuid
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rr_bench.tasks.prompts import templates
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.sources import rows_of
from rr_bench.tasks.synthetic.words import ADJECTIVES, NOUNS, PLACES, VERBS

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCAB = 1000
ROWS = 1024
"""Rows of the embedding: a few more than tokens, as in real checkpoints."""
SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}


def _corpus() -> list[str]:
    """Lines of the kind the prompts are made of."""
    rng = random.Random(0)
    constants = [v for k, v in vars(templates).items() if k.isupper() and isinstance(v, str)]
    words = [" ".join(group) for group in (ADJECTIVES, NOUNS, VERBS, PLACES)]
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(200)]
    lines = [f'    "{a}": "{b}",' for a, b in zip(ids[::2], ids[1::2], strict=True)]
    numbers = [str(rng.randint(1_000_000, 9_999_999)) for _ in range(100)]
    return constants + words + lines + numbers


@functools.cache
def _bpe(bos: bool) -> str:
    """The tokenizer as JSON; trained once per process."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(_corpus(), trainer)
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tok.token_to_id(BOS))]
        )
    return tok.to_str()


def tiny_tokenizer(directory: Path | str, *, bos: bool = True) -> PreTrainedTokenizerFast:
    """Save a byte-level BPE of at most 1000 tokens in ``directory`` and return it.

    Args:
        directory: made if it does not exist.
        bos: begin every encoded text with ``<s>``, as Llama's tokenizers do.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe(bos)), bos_token=BOS, eos_token=EOS, pad_token=PAD
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def _save(model: PreTrainedModel, directory: Path | str, *, bos: bool) -> Path:
    model.eval().save_pretrained(directory)
    tiny_tokenizer(directory, bos=bos)
    return Path(directory)


def tiny_llama(directory: Path | str, **changes: Any) -> Path:
    """Save a random Llama and its tokenizer (with BOS); ``changes`` override config fields."""
    torch.manual_seed(0)
    return _save(LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})), directory, bos=True)


def tiny_qwen2(directory: Path | str, **changes: Any) -> Path:
    """Save a random Qwen2 and its tokenizer (no BOS); ``changes`` override config fields."""
    torch.manual_seed(0)
    return _save(Qwen2ForCausalLM(Qwen2Config(**{**SHAPE, **changes})), directory, bos=False)


def tiny_qwen3(directory: Path | str, **changes: Any) -> Path:
    """Save a random Qwen3 and its tokenizer (no BOS); ``changes`` override config fields."""
    torch.manual_seed(0)
    config = Qwen3Config(**{**SHAPE, "head_dim": 64, **changes})
    return _save(Qwen3ForCausalLM(config), directory, bos=False)


def recall_rows(task: str, **metadata: Any) -> list[Row]:
    """Rows of any Recall task by its name."""
    return rows_of(task, **metadata)
