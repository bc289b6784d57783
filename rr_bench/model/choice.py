"""Which decoder a model gets, and why not another."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from rr_bench.model.graph import StepDecoder
from rr_bench.model.hook import HookError, attention_layers
from rr_bench.model.memory import OutOfMemory
from rr_bench.model.rotary import adapts
from rr_bench.model.spread import devices
from rr_bench.plan.model_facts import CheckpointError

NO_GPU = "no GPU"


def choose_decoder(
    model: PreTrainedModel, setting: str, together: int = 1
) -> tuple[StepDecoder | None, str]:
    """What ``decode`` and ``decode_together`` mean for a loaded model, and how it is recorded.

    Args:
        model: on its device, with its final generation config.
        setting: ``auto`` (a graph where it can be), ``graph`` or ``generate``.
        together: prompts that are decoded together. With several, a CPU takes steps too, uncaptured.

    Returns:
        The decoder and ``graph`` or ``steps``, or ``None`` and ``generate`` with the reason.

    Raises:
        CheckpointError: ``graph``, or several prompts together, were asked for and cannot be had.
    """
    decoder = None
    reason = "as asked for" if setting == "generate" else why_not(model)
    capture = model.device.type == "cuda"
    if reason == NO_GPU and together > 1 and setting != "graph":
        reason = why_no_steps(model)
    if reason is None:
        decoder = StepDecoder(model, capture=capture, rows=together)
        try:
            reason = decoder.try_out()
        except (HookError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError | OutOfMemory):
                raise
            reason = f"its step cannot be captured: {str(error).partition(chr(10))[0]}"
    if reason is None:
        name = "graph" if capture else "steps"
        return decoder, name if together == 1 else f"{name}, {together} together"
    if setting == "graph":
        raise CheckpointError(f"decode=graph cannot be had, {reason}: use decode=auto")
    if together > 1:
        raise CheckpointError(
            f"decode_together={together} cannot be had, {reason}: use decode_together=1"
        )
    return None, f"generate ({reason})"


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model's step cannot be captured, as far as that is known beforehand."""
    if model.device.type != "cuda":
        return NO_GPU
    if (reason := why_no_steps(model)) is not None:
        return reason
    from method.ops.triton_support import HEAD_DIMS  # Triton is there where a GPU is

    text = model.config.get_text_config(decoder=True)
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return None if dim in HEAD_DIMS else f"the kernel does not take heads of {dim}"


def why_no_steps(model: PreTrainedModel) -> str | None:
    """Why a model cannot be decoded by steps over buffers, captured or not."""
    if len(devices(model)) > 1:
        return "the model is spread over several GPUs"
    text = model.config.get_text_config(decoder=True)
    full, _ = attention_layers(model.config)
    if len(full) != text.num_hidden_layers:
        return "layers with a window or a recurrence keep their own caches"
    if any(adapts(module) for module in model.modules()):
        return "its RoPE adapts to the text's length"
    return None
