"""From a dataset's parts to a finished row: chat template, truncation, what was lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import Dataset
from rr_bench.tasks.prompts.chat import chat_text, uses_chat
from rr_bench.tasks.prompts.rows import Draft, Row, make_row
from rr_bench.tasks.prompts.truncation import truncate
from rr_bench.tasks.settings import Settings


@dataclass(frozen=True)
class Parts:
    """One row before rendering.

    Attributes:
        index: number of the row in its source.
        context: the text that is cut if the prompt is too long.
        user: context to the user template.
        lead_in: HELMET's "system template": what the answer continues when there is no chat.
        golds: accepted answers.
        join: between user template and lead-in.
        extra: facts for scoring and reading; JSON-serialisable.
        survived: cut context to whether the gold evidence is still there; None if unknowable.
    """

    index: int
    context: str
    user: Callable[[str], str]
    lead_in: str
    golds: Sequence[str]
    join: str = "\n"
    extra: Mapping[str, Any] = field(default_factory=dict)
    survived: Callable[[str], bool] | None = None


def fill(template: str, **fields: str) -> str:
    """Put fields into a template in one pass; braces in the values, and other braces, stay."""
    names = "|".join(map(re.escape, fields))
    return re.sub(rf"\{{({names})\}}", lambda match: fields[match.group(1)], template)


def finish(dataset: Dataset, settings: Settings, parts: Parts, notes: Notes) -> Row:
    """Render, truncate and count one row.

    Raises:
        ValueError: the prompt is over its budget by more than the context has; the row is named.
    """
    chat = uses_chat(dataset, settings)
    budget = settings.length - dataset.generation

    def render(context: str) -> str:
        if chat:
            return chat_text(settings.tokenizer, parts.user(context))
        return parts.user(context) + parts.join + parts.lead_in

    try:
        cut = truncate(
            settings.tokenizer,
            render,
            parts.context,
            budget,
            strict=settings.data.strict_truncation,
            special=not chat,
        )
    except ValueError as error:
        raise ValueError(f"{dataset.name}, row {parts.index}: {error}") from error
    survived = None if parts.survived is None else parts.survived(cut.context)
    draft = Draft(
        cut.prompt,
        parts.golds,
        "" if chat else parts.lead_in,
        {**parts.extra, "gold_survived": survived},
        chat,
    )
    row = make_row(
        dataset.name,
        settings,
        draft,
        index=parts.index,
        source="helmet",
        input_len=cut.input_len,
        budget=budget,
        removed_tokens=cut.removed,
    )
    notes.fact("chat", chat)
    notes.fact("thinking", settings.data.thinking)
    notes.row(row["uid"], truncated=row["truncated"], gold_survived=survived)
    return row
