"""Loading a checkpoint as an ordinary Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rr_bench.plan.model_facts import CheckpointError, Device


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
) -> LoadedModel:
    """Load model and tokenizer from a local folder.

    Args:
        path: folder with ``config.json``, safetensors weights and tokenizer files.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: as :func:`rr_bench.plan.device.resolve_device` found it.
        trust_remote_code: run model code that comes with the checkpoint.
        rope: RoPE settings laid over the checkpoint's own, such as YaRN's.

    Raises:
        CheckpointError: the folder does not load, or the device is not the one it was taken for.
    """
    _check_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        if rope is not None:
            text = config.get_text_config()
            text.rope_parameters = {**text.rope_parameters, **rope}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"model.path={path} does not load: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise CheckpointError(
            f"model.path={path} does not load: {len(report['missing_keys'])} weights are not in its "
            f"files and would be random ({missing}, ...)"
        )
    return LoadedModel(model.to(device.kind).eval(), tokenizer)


def _check_device(device: Device) -> None:
    """The results are filed under the device's name, so it has to be the true one."""
    if device.kind == "cpu":
        return
    if not torch.cuda.is_available():
        raise CheckpointError(
            f"nvidia-smi shows {device.name}, but torch {torch.__version__} sees no CUDA device: "
            "set device=cpu, or install a torch build that fits the driver"
        )
    name = torch.cuda.get_device_name()
    if name != device.name:
        raise CheckpointError(
            f"nvidia-smi shows {device.name}, but torch uses {name}: set CUDA_DEVICE_ORDER=PCI_BUS_ID "
            "and CUDA_VISIBLE_DEVICES so that both mean the same GPU"
        )
