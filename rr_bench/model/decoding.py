"""Greedy decoding, whatever a checkpoint or a task would like, and logits that must be finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "repetition_penalty")
"""What greedy decoding takes from a checkpoint's generation config."""


class NotFinite(ArithmeticError):
    """The model's logits hold NaN or infinity, so there is no answer to score."""


class FiniteCheck(LogitsProcessor):
    """Watches the logits of every new token; they stay on the device until :meth:`check`."""

    def __init__(self) -> None:
        self._seen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note whether ``scores``, ``[..., vocabulary]``, are finite, and return them as they are."""
        finite = torch.isfinite(scores).all()
        self._seen = finite if self._seen is None else self._seen & finite
        return scores

    def check(self) -> None:
        """Raise :class:`NotFinite` if any logit was not finite; one read from the device."""
        check_finite(self._seen is None or bool(self._seen))


def check_finite(finite: bool) -> None:
    """Raise :class:`NotFinite` if logits were not."""
    if not finite:
        raise NotFinite(
            "the model's logits are NaN or infinite: its weights are broken, or float16 overflows "
            "(try dtype=bfloat16 or float32)"
        )


def greedy_config(own: GenerationConfig) -> GenerationConfig:
    """Greedy decoding with a checkpoint's stop tokens and repetition penalty, and no more of it."""
    return GenerationConfig(do_sample=False, **{name: getattr(own, name, None) for name in KEPT})


def greedy_settings(settings: dict[str, Any], default_tokens: int) -> tuple[list[str], int]:
    """Stop strings and token budget of a task's ``generation_kwargs``; all else must mean greedy."""
    until = settings.pop("until", None) or []
    tokens = int(settings.pop("max_gen_toks", default_tokens))
    settings = {name: value for name, value in settings.items() if value is not None}
    if settings.pop("do_sample", False) or settings.pop("temperature", 0.0) or settings:
        raise ValueError(
            f"generation_kwargs of the task ask for {settings or 'sampling'}: decoding here is greedy"
        )
    return ([until] if isinstance(until, str) else list(until)), tokens
