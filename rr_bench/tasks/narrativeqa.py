"""HELMET's NarrativeQA: questions about whole novels and film scripts (arXiv 1712.07040).

HELMET draws the two demonstrations without a seed; here the run's seed draws them, once for all
rows, so prompts are HELMET's up to that choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.documents import Cutter, tokenizer_files
from rr_bench.tasks.helmet_table import DATASETS, NARRATIVE_FLOOR, document_tokens
from rr_bench.tasks.hubsets import read_table, split_files
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.prompt import Row, as_split
from rr_bench.tasks.render import Parts, fill, finish
from rr_bench.tasks.selection import shuffled
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.stories import no_rows

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

NAME = "narrativeqa"
USER = (
    "You are given a story, which can be either a novel or a movie script, and a question. Answer the "
    "question as concisely as you can, using a single phrase if possible.\n\n{demo}{context}\n\n"
    "Question: {question}"
)
LEAD = "Answer:"
DEMO = "Question: {question}\nAnswer: {answer}"
DEMOS = "For example:\n\n{demos}\n\nNow, use the following story to answer the question:\n\n"
DEMO_FIELDS = ("question", "answers")
FIELDS = ("document", *DEMO_FIELDS)
SHOTS = 2
ROWS = 100


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on, demonstrations first."""
    splits = [file for split in ("train", "test") for file in split_files(name, split, data)]
    return splits + tokenizer_files(data)


def demo_block(train: Any, seed: int) -> str:
    """Two questions with their first answer."""
    texts = []
    for i in shuffled(len(train), seed)[:SHOTS]:
        row = train[i]
        question, answer = row["question"]["text"], row["answers"][0]["text"]
        texts.append(fill(DEMO, question=question, answer=answer))
    return fill(DEMOS, demos="\n\n".join(texts))


def parts_of(index: int, row: Mapping[str, Any], context: str, demo: str) -> Parts:
    """One row as parts of a prompt."""
    question = row["question"]["text"]

    def user(text: str) -> str:
        return fill(USER, demo=demo, context=text, question=question)

    extra = {
        "question": question,
        "document": row["document"].get("id"),
        "document_cut": context != row["document"]["text"],
    }
    golds = [str(answer["text"]) for answer in row["answers"]]
    return Parts(index, context, user, LEAD, golds, extra=extra)


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """The task's rows; ``metadata`` as in :class:`~rr_bench.tasks.settings.Settings`.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every story is under the
            floor; the message names it.
    """
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    test = read_table(split_files(NAME, "test", settings.data), FIELDS, FIELDS, notes)
    train = read_table(
        split_files(NAME, "train", settings.data), DEMO_FIELDS, FIELDS, notes, DEMO_FIELDS
    )
    demo = demo_block(train, settings.seed)
    cutter = Cutter(settings)
    floor = NARRATIVE_FLOOR if settings.data.document_floor is None else settings.data.document_floor
    limit = document_tokens(NAME, settings.length)
    made: list[Row] = []
    for i in shuffled(len(test), settings.seed):
        if len(made) == min(ROWS, settings.samples):
            break
        row = test[i]
        if not cutter.reaches(row["document"]["text"], floor + 1 if floor else 0):
            notes.drop(f"story of at most {floor} Llama-2 tokens", i)
            continue
        context = cutter.cut(row["document"]["text"], limit)
        made.append(finish(DATASETS[NAME], settings, parts_of(i, row, context, demo), notes))
    if not made:
        raise ValueError(no_rows(NAME, floor, len(test)))
    return made


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
