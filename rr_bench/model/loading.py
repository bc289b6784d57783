"""Loading a checkpoint as an ordinary Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from method.attention import SparsePrefill
from method.full import FullAttention
from method.keep import NO_KEEP
from rr_bench.model.hook import HookError, sparse_prefill
from rr_bench.model.spread import check_gpus, check_spread
from rr_bench.plan.families import VIDEO_FAMILIES, native_positions
from rr_bench.plan.model_facts import CheckpointError, Device, lay_rope


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode on its device, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_model(
    path: Path,
    *,
    dtype: str,
    device: Device,
    trust_remote_code: bool = False,
    rope: Mapping[str, Any] | None = None,
    device_map: str | None = None,
) -> LoadedModel:
    """Load model and tokenizer from a local folder.

    Args:
        path: folder with ``config.json``, safetensors weights and tokenizer files.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: where to put it.
        trust_remote_code: run model code that comes with the checkpoint.
        rope: RoPE settings laid over the checkpoint's own, such as YaRN's.
        device_map: how to spread the layers over the visible GPUs; see :mod:`rr_bench.model.spread`.

    Raises:
        CheckpointError: the folder does not load, or no method can be put into its attention.
    """
    check_gpus(device, device_map)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        if rope is not None:
            text = config.get_text_config(decoder=True)
            own = getattr(text, "rope_parameters", None)
            text.rope_parameters = lay_rope(own, rope, native_positions(text.to_dict()))
        seeing = config.model_type in VIDEO_FAMILIES
        auto = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
        loaded: Any = auto.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            attn_implementation="sdpa",
            device_map=device_map,
            output_loading_info=True,
        )
    except Exception as error:
        # A stranger's files: transformers raises whatever it stumbles over in them.
        if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
            raise  # torch's, of memory for one
        raise CheckpointError(
            f"model.path={path} does not load: {type(error).__name__}: {error}"
        ) from error
    model, report = loaded
    _check_whole(path, report["missing_keys"])
    if device_map is None:
        model = model.to(device.kind)
    else:
        check_spread(path, model, device, device_map)
    model.eval()
    _try_out(path, model)
    return LoadedModel(model, tokenizer)


def _check_whole(path: Path, missing: Collection[str]) -> None:
    if missing:
        raise CheckpointError(
            f"model.path={path} does not load: {len(missing)} weights are not in its files and would "
            f"be random ({', '.join(sorted(missing)[:3])}, ...)"
        )


def _try_out(path: Path, model: PreTrainedModel) -> None:
    """Send two tokens through, so that a model no method can be put into is known before any cell."""
    dense = SparsePrefill(FullAttention(), NO_KEEP, backend="torch")
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        with torch.no_grad(), sparse_prefill(model, dense):
            model.base_model(input_ids=ids, use_cache=False)
    except (HookError, ValueError, TypeError) as error:
        raise CheckpointError(f"model.path={path} cannot run here: {error}") from error
