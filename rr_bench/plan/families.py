"""Which model families a sparse prefill can run, told from ``config.json`` before anything is loaded.

A model runs if its attention goes through transformers' ``AttentionInterface`` with plain causal
softmax attention in at least one layer. Each row was tried with a random model: logits and
generation equal transformers' own.

==========================  =======================================================================
runs, every layer sparse    Llama, Mistral without a window, Mixtral, Ministral, Qwen2, Qwen2-MoE,
                            Qwen3, Qwen3-MoE, Gemma, Phi, Phi-3, Phi-MoE, StableLM, StarCoder2, OLMo,
                            OLMo-2, Cohere, Granite, GLM, GLM-4, GPT-NeoX, GPT-2, GPT-BigCode, OPT,
                            BioGPT, Nemotron, SmolLM3, ERNIE 4.5, Seed-OSS, Arcee, Persimmon, Helium,
                            HunYuan, OLMoE, JetMoE, Granite-MoE, GLM-4-MoE, MiniMax-M2, Apertus, BitNet;
                            the language part of vision-language models such as Qwen2.5-VL
runs, full layers sparse    Gemma 3, Gemma 4, Cohere2, OLMo-3, EXAONE 4, Llama 4 (windowed or chunked
                            layers stay native); Qwen3-Next, Qwen3.5, Jamba, Bamba, LFM2, Granite and
                            OLMo hybrids (recurrent layers stay native)
does not run                multi-head latent attention (DeepSeek V2/V3, MiniCPM3, Kimi), attention
                            sinks (gpt-oss, MiMo-V2), ALiBi (Bloom, MPT), capped logits (Gemma 2),
                            models without full-attention layers (Mamba, RWKV, RecurrentGemma,
                            Falcon-H1, Zamba, Mistral with a window), attention code of their own
                            (Falcon, GPT-J, GPT-Neo, CodeGen, XGLM, MiniMax-01), encoder-decoders (T5,
                            BART), quantised checkpoints other than GGUF files
==========================  =======================================================================

A window at or beyond the model's positions (Phi-3.5, Phi-4-mini) is full attention. The kernels for a
GPU take heads of 64, 96 and 128 only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]

FULL, SLIDING = "full_attention", "sliding_attention"
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
"""Names that families give to the number of positions."""

WINDOW_EVERYWHERE = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")
"""Families whose ``sliding_window``, if any, holds in every layer."""

LEARNED_POSITIONS = ("gpt2", "gpt_bigcode", "gpt_neo", "opt", "biogpt", "xglm")
"""Families with a table of positions, which ends where it ends."""

VIDEO_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families that can be given a video, by the type of the whole model."""

SINKS = ("gpt_oss", "mimo_v2_flash", "deepseek_v4", "granite_swa", "granitemoe_swa", "hy_v4")
ALIBI = ("bloom", "mpt")
RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "xlstm")
MIXED_LAYERS = ("falcon_h1", "zamba", "zamba2")
OWN_CODE = ("falcon", "gptj", "gpt_neo", "codegen", "xglm", "minimax", "ctrl", "xlnet")

_RULES: tuple[tuple[Callable[[Config], Any], str], ...] = (
    (
        lambda config: config.get("is_encoder_decoder"),
        "is an encoder-decoder model; a sparse prefill is for decoder-only language models",
    ),
    (
        lambda config: config.get("kv_lora_rank"),
        "uses multi-head latent attention (MLA, as DeepSeek V2 and V3 do), which the sparse executor "
        "does not compute",
    ),
    (
        lambda config: config.get("model_type") in SINKS or config.get("attention_sink_bias"),
        "uses attention sinks (as gpt-oss does), which the sparse executor does not compute",
    ),
    (
        lambda config: config.get("model_type") in ALIBI or config.get("alibi"),
        "uses ALiBi position biases (as Bloom and MPT do), which the sparse executor does not compute",
    ),
    (
        lambda config: config.get("attn_logit_softcapping"),
        "caps its attention logits (as Gemma 2 does), which the sparse executor does not compute",
    ),
    (
        lambda config: config.get("model_type") in RECURRENT,
        "is a state-space or recurrent model (as Mamba is) without a full-attention layer: a sparse "
        "prefill has nothing to do here",
    ),
    (
        lambda config: config.get("model_type") in MIXED_LAYERS,
        "mixes a state-space block and attention within a layer (hybrid Mamba), which is not supported",
    ),
    (
        lambda config: config.get("model_type") in OWN_CODE,
        "has attention code of its own that does not use transformers' AttentionInterface, so a method "
        "cannot be put in",
    ),
    (
        lambda config: _known_kinds(config) and FULL not in _known_kinds(config),
        "has no full-attention layer (as Mistral 7B v0.1 with its window in every layer): a sparse "
        "prefill has nothing to do here",
    ),
)


def unsupported(config: Config) -> str | None:
    """Why a model cannot run here, in words that follow its name; ``None`` if nothing is known.

    Args:
        config: ``config.json``, that of the text part laid over it.
    """
    quantised = config.get("quantization_config")
    if quantised:
        method = str(quantised.get("quant_method") or "quantization_config").lower()
        return (
            f"is a quantised checkpoint ({method}), which needs packages and kernels beyond this "
            "project: take the unquantised safetensors (float32, bfloat16 or float16), or a GGUF file, "
            "which is unpacked to bfloat16"
        )
    return next((reason for applies, reason in _RULES if applies(config)), None)


def native_positions(config: Config) -> int | None:
    """Positions a config names itself, without any stretching; ``None`` if it is silent."""
    return next((int(config[name]) for name in POSITIONS if config.get(name) is not None), None)


def layer_kinds(config: Config, positions: int | None) -> list[str]:
    """The kind of each layer, ``full_attention``, ``sliding_attention`` or another of transformers'.

    Args:
        config: a loaded config as a mapping, text part.
        positions: tokens the model takes. A window that holds them all is full attention.
    """
    window = config.get("sliding_window")
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [SLIDING if window else FULL] * int(config["num_hidden_layers"])
    if window and positions is not None and window >= positions:
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    return list(kinds)


def _known_kinds(config: Config) -> list[str]:
    """The same as far as a raw ``config.json`` tells: older ones leave the kinds to the code."""
    told = config.get("layer_types") or config.get("model_type") in WINDOW_EVERYWHERE
    if not told or not config.get("num_hidden_layers"):
        return []
    kinds = layer_kinds(config, native_positions(config))
    return [FULL if kind == "attention" else kind for kind in kinds]
