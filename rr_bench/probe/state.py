"""Files of a training run: the resumable state, and the model as it ships."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerBase

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write an ordinary Hugging Face folder: bf16 safetensors in shards of at most 9 MB."""
    half = copy.deepcopy(model)
    torch.nn.Module.to(half, torch.bfloat16)
    half.save_pretrained(out, max_shard_size="9MB")
    GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2, do_sample=False).save_pretrained(
        out
    )
    tokenizer.save_pretrained(out)


def save_state(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int, out: Path) -> None:
    """Everything a resumed run needs; the number of finished steps is written last."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "step.json").unlink(missing_ok=True)
    parameters = dict(model.named_parameters())
    moments = {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        for key in MOMENTS
    }
    save_file({name: value.data for name, value in parameters.items()}, out / "model.safetensors")
    save_file(moments, out / "optimizer.safetensors")
    (out / "step.json").write_text(json.dumps({"step": step}))


def load_state(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, out: Path) -> int:
    """Restore the saved state and return the number of finished steps; 0 if there is none."""
    if not (out / "step.json").exists():
        return 0
    device = str(model.device)
    saved = load_file(out / "model.safetensors", device=device)
    moments = load_file(out / "optimizer.safetensors", device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(saved[name])
            optimizer.state[parameter] = {key: moments[f"{name}.{key}"] for key in MOMENTS}
    return int(json.loads((out / "step.json").read_text())["step"])
