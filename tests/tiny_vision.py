"""Tiny random vision-language models of the three families, saved as ordinary checkpoint folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.tiny import SHAPE, tiny_tokenizer

MARKERS = ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>", "<|image_pad|>")
ROPE = {"rope_type": "default", "rope_theta": 1e6}


def _text(section: list[int], **more: Any) -> dict[str, Any]:
    return {
        **SHAPE,
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {**ROPE, "mrope_section": section},
        **more,
    }


def _parts(family: str) -> tuple[type[Any], type[PreTrainedModel], dict[str, Any], dict[str, Any]]:
    """Config, model, text settings and tower settings of a family."""
    if family == "qwen2_vl":
        vision = {"depth": 1, "embed_dim": 32, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2}
        return Qwen2VLConfig, Qwen2VLForConditionalGeneration, _text([8, 12, 12]), vision
    if family == "qwen2_5_vl":
        vision = {"depth": 1, "hidden_size": 32, "out_hidden_size": 128, "num_heads": 2}
        vision |= {"intermediate_size": 64, "tokens_per_second": 2, "fullatt_block_indexes": [0]}
        return Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, _text([8, 12, 12]), vision
    vision = {"depth": 1, "hidden_size": 32, "out_hidden_size": 128, "num_heads": 2}
    vision |= {"intermediate_size": 64, "deepstack_visual_indexes": [0], "patch_size": 16}
    text = _text([12, 10, 10], head_dim=64)
    return Qwen3VLConfig, Qwen3VLForConditionalGeneration, text, vision


FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def tiny_vision(directory: Path, family: str) -> Path:
    """Save a random model of a family and its tokenizer."""
    tokenizer = tiny_tokenizer(directory, bos=False)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    tokenizer.save_pretrained(directory)
    start, pad, end, image = tokenizer.convert_tokens_to_ids(list(MARKERS))
    config, model, text, vision = _parts(family)
    torch.manual_seed(0)
    made = model(
        config(
            text_config=text,
            vision_config=vision,
            vision_start_token_id=start,
            vision_end_token_id=end,
            video_token_id=pad,
            image_token_id=image,
        )
    )
    made.eval().save_pretrained(directory)
    return directory
