"""Tiny random vision-language models of the three families, with a tokenizer of bytes and markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
"""What the templates of Qwen2-VL and Qwen2.5-VL begin with."""


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token a byte, and the markers; the family's chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate((*SPECIAL, *alphabet))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token=SPECIAL[0])
    made.chat_template = TEMPLATE if family == "qwen3_vl" else SYSTEM + TEMPLATE
    return made


def tiny_vlm(family: str, folder: Path | None = None, **text: Any) -> PreTrainedModel:
    """A random model of two language layers; saved with its tokenizer if a folder is given."""
    words = tokenizer(family)
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2, 3, 3],
        },
        **text,
    }
    tower: dict[str, Any] = {"depth": 2, "num_heads": 2}
    if family == "qwen2_vl":
        tower |= {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    else:
        tower |= {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
    if family == "qwen2_5_vl":
        tower |= {"fullatt_block_indexes": [1], "tokens_per_second": 2, "window_size": 112}
    if family == "qwen3_vl":
        layers |= {"head_dim": 16}
        tower |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64, "patch_size": 16}
    ids = {
        f"{name}_token_id": words.convert_tokens_to_ids(f"<|{marker}|>")
        for name, marker in (
            ("video", "video_pad"),
            ("image", "image_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    kinds: Any = {
        "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
        "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
        "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    }
    make_config, make_model = kinds[family]
    model: PreTrainedModel = make_model(
        make_config(text_config=layers, vision_config=tower, **ids)
    ).eval()
    if folder is not None:
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return model


def frames(family: str, count: int = 4) -> NDArray[np.uint8]:
    """Random frames of four language tokens each: uint8 ``[count, side, side, 3]``."""
    side = 64 if family == "qwen3_vl" else 56
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
