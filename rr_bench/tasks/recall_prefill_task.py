"""The lm-eval task class of ``recall_prefill``: one request per question of a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask


class SpanRequest(Instance):
    """A ``loglikelihood`` request that cuts its two texts out of the prompt when asked for them.

    64 contexts per document, each almost the whole prompt, would otherwise fill the memory of a
    long run before its first forward pass.
    """

    @property
    def arguments(self) -> tuple[str, str]:
        """Context (the prompt up to the answer) and continuation (the answer)."""
        start, end = self._span
        return self.doc["prompt"][:start], self.doc["prompt"][start:end]

    @arguments.setter
    def arguments(self, span: tuple[int, int]) -> None:
        self._span = span


class RecallPrefill(ConfigurableTask):
    """Grades every answer of a row; works with any lm-eval model.

    The contexts of one row are prefixes of one another, so a model that knows can answer all of
    them in one forward pass.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config={k: v for k, v in (config or {}).items() if k != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """One request per question, in the prompt's order.

        Raises:
            ValueError: the context is not the bare prompt, so the spans would not fit it.
        """
        kwargs.pop("apply_chat_template", None)
        kwargs.pop("chat_template", None)
        if ctx != doc["prompt"]:
            raise ValueError(
                "recall_prefill grades spans of its own prompt: run it without apply_chat_template, "
                "system_instruction and num_fewshot"
            )
        return [
            SpanRequest("loglikelihood", doc, (start, end), idx, **kwargs)
            for idx, (start, end) in enumerate(json.loads(doc["spans"]))
        ]
