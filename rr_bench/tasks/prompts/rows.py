"""From a dataset's fields to a finished row.

Rows are flat dicts of str, int and float; lists travel as JSON strings so that every row has the
same Arrow types. A finished prompt is never formatted again: contexts contain braces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rr_bench.tasks.settings import Settings

Row = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """One sample before it is counted.

    Attributes:
        prompt: finished text, lead-in included.
        golds: accepted answers.
        lead_in: the text the answer continues, put before the output again for parsing.
        extra: whatever helps to read a result (depth, number of pairs, …); JSON-serialisable.
        chat: the prompt is rendered with the chat template, which brings its own special tokens.
        spans: character spans of answers inside the prompt (``recall_prefill`` only).
    """

    prompt: str
    golds: Sequence[str]
    lead_in: str
    extra: Mapping[str, Any]
    chat: bool = False
    spans: Sequence[tuple[int, int]] | None = None


def make_row(
    dataset: str,
    settings: Settings,
    draft: Draft,
    *,
    index: int,
    source: str,
    input_len: int,
    budget: int,
    removed_tokens: int = 0,
) -> Row:
    """The row lm-eval sees; ``index`` numbers it within its source (``generated``, ``helmet``).

    ``chat`` tells the model to encode the prompt without special tokens of its own, ``thinking`` the
    scorer to look at what follows the thoughts.
    """
    row: Row = {
        "uid": f"{dataset}-{settings.length}-{source}-{index:05d}",
        "dataset": dataset,
        "length": settings.length,
        "prompt": draft.prompt,
        "lead_in": draft.lead_in,
        "chat": draft.chat,
        "thinking": settings.data.thinking,
        "golds": json.dumps(list(draft.golds)),
        "extra": json.dumps(dict(draft.extra)),
        "input_len": input_len,
        "budget": budget,
        "truncated": removed_tokens > 0,
        "removed_tokens": removed_tokens,
        "source": source,
    }
    if draft.spans is not None:
        row["spans"] = json.dumps([list(span) for span in draft.spans])
    return row


def as_split(rows: Sequence[Row], notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Rows as the ``{"test": Dataset}`` that lm-eval expects of a custom dataset.

    Args:
        rows: the rows.
        notes: what happened on the way to them; travels as the dataset's description, in JSON.
    """
    from datasets import Dataset

    made = Dataset.from_list(list(rows))
    made.info.description = json.dumps(dict(notes or {}))
    return {"test": made}
