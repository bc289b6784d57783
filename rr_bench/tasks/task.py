"""lm-eval's side of the tasks: what the YAML files in ``tasks`` refer to.

``metadata`` (the YAML's, overlaid by lm-eval's ``--metadata`` and ``--model_args``) names the dataset
and holds the settings: ``length``, ``samples``, ``seed``, those of
:class:`~rr_bench.tasks.settings.DataSettings`, and ``newline_stop``. Where that applies, lm-eval's own
models end at a newline anywhere, this project's at HELMET's newline tokens only (a full stop and a
newline can be one token). lm-eval's models also put their BOS before a chat prompt without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.answers import after_thoughts
from rr_bench.tasks.prompts.rows import as_split
from rr_bench.tasks.sources import module_of, newline_stop, rows_of

THINKING_TOKENS = 32768
"""HELMET's additional budget of a thinking model; prompt and answer keep theirs."""
NEWLINE = "\n"


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}`` of the dataset that the metadata names."""
    notes = Notes()
    rows = rows_of(metadata["dataset"], notes=notes, **metadata)
    return as_split(rows, notes.as_dict())


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Every metric of an answer that needs no judge, under HELMET's name, in 0..1.

    ``score`` is the one that enters the dataset's average (:mod:`rr_bench.tasks.helmet_table`);
    ``num_preds`` is a count.

    Args:
        doc: the row.
        results: the output.
    """
    name = doc["dataset"]
    found: dict[str, float] = module_of(name).metrics(doc, answer_of(doc, results[0]))
    return {"score": found[DATASETS[name].metric], **found}


def answer_of(doc: Mapping[str, Any], output: str) -> str:
    """What is scored: the output behind the lead-in, where HELMET looks for its prefixes.

    With ``data.thinking`` only what follows the thoughts, as HELMET's ``--thinking`` does: the lead-in
    goes with them.
    """
    text = str(doc["lead_in"]) + output
    return after_thoughts(text) if doc["thinking"] else text


class HelmetTask(ConfigurableTask):
    """A dataset whose answers are generated; its budget and stop follow the table and the settings."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        given = {k: v for k, v in (config or {}).items() if k != "class"}
        metadata = given["metadata"]
        name, thinking = metadata["dataset"], bool(metadata.get("thinking", False))
        stop = newline_stop(name, metadata.get("newline_stop", "auto"), thinking=thinking)
        tokens = DATASETS[name].generation + (THINKING_TOKENS if thinking else 0)
        generation = {"max_gen_toks": tokens, "until": [NEWLINE] if stop else []}
        given["generation_kwargs"] = {**given["generation_kwargs"], **generation}
        super().__init__(config=given)


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
