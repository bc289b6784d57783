"""Greedy decoding, whatever a checkpoint or a task would like, and logits that must be finite."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

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


@dataclass(frozen=True)
class Ask:
    """A prompt, and where its answer ends.

    Attributes:
        ids: tokens of the prompt, int64 ``[1, L]``.
        new_tokens: most tokens of the answer.
        stop_ids: tokens that end it, and belong to it.
        until: strings that end it ...
        ended: ... and whether an answer so far holds one.
    """

    ids: Tensor
    new_tokens: int
    stop_ids: Collection[int] = ()
    until: list[str] = field(default_factory=list)
    ended: Callable[[list[int]], bool] | None = None

    def extend(self, answer: list[int], tokens: list[int]) -> bool:
        """Append ``tokens`` up to the answer's end; whether that is reached."""
        for token in tokens:
            answer.append(token)
            if token in self.stop_ids or len(answer) == self.new_tokens:
                return True
            if self.ended is not None and self.ended(answer):
                return True
        return False


def stop_test(
    tokenizer: PreTrainedTokenizerBase, until: list[str]
) -> Callable[[list[int]], bool] | None:
    """Whether an answer holds a stop string, as lm-eval tells it; ``None`` where there are none."""
    if not until:
        return None
    criteria = stop_sequences_criteria(tokenizer, until, 0, 1)
    return lambda answer: any(one(torch.tensor([answer]), None) for one in criteria)


def generate(model: Any, tokenizer: PreTrainedTokenizerBase, ask: Ask, cache: Cache) -> list[int]:
    """The answer by transformers' ``generate``, from a cache of all tokens of the prompt but the last.

    Raises:
        NotFinite: the model computed NaN or infinity.
    """
    finite, tokens = FiniteCheck(), ask.ids.shape[1]
    output = model.generate(
        input_ids=ask.ids,
        attention_mask=torch.ones_like(ask.ids),
        past_key_values=cache,
        max_new_tokens=ask.new_tokens,
        eos_token_id=list(ask.stop_ids) or None,
        pad_token_id=tokenizer.pad_token_id,
        stopping_criteria=stop_sequences_criteria(tokenizer, ask.until, tokens, 1),
        logits_processor=LogitsProcessorList([finite]),
    )
    finite.check()
    answer: list[int] = output[0, tokens:].tolist()
    return answer


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
