"""HELMET's NarrativeQA: questions about whole novels and film scripts (arXiv 1712.07040).

HELMET draws the two demonstrations without a seed; here the run's seed draws them, once for all
rows, so prompts are HELMET's up to that choice.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.documents import Cutter, no_rows, tokenizer_files
from rr_bench.tasks.files.fields import Record, inner_text, passages_of, texts
from rr_bench.tasks.files.hub import Table, read_table, split_files
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import HELMET_ROWS, shuffled
from rr_bench.tasks.helmet_table import DATASETS, NARRATIVE_FLOOR, document_tokens
from rr_bench.tasks.metrics.answers import PREFIX, best_metrics
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

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


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on, demonstrations first."""
    splits = [file for split in ("train", "test") for file in split_files(name, split, data)]
    return splits + tokenizer_files(data)


def demo_block(train: Table, seed: int) -> str:
    """Two questions with their first answer."""
    shown = []
    for i in shuffled(len(train), seed)[:SHOTS]:
        row = train[i]
        question = inner_text(row, "question", "text")
        shown.append(fill(DEMO, question=question, answer=answers_of(row)[0]))
    return fill(DEMOS, demos="\n\n".join(shown))


def answers_of(row: Record) -> list[str]:
    """Accepted answers.

    Raises:
        ValueError: there is none, or one is no text; file and row are named.
    """
    found = passages_of(row, "answers", ("text",))
    return texts([one["text"] for one in found], f"{row.where}: answers")


def parts_of(index: int, row: Record, context: str, demo: str) -> Parts:
    """One row as parts of a prompt."""
    question = inner_text(row, "question", "text")

    def user(text: str) -> str:
        return fill(USER, demo=demo, context=text, question=question)

    extra = {
        "question": question,
        "document": row["document"].get("id"),
        "document_cut": context != row["document"]["text"],
    }
    return Parts(index, context, user, LEAD, answers_of(row), extra=extra)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every story is under the
            floor; the message names it.
    """
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
        if len(made) == min(HELMET_ROWS, settings.samples):
            break
        row = test[i]
        text = inner_text(row, "document", "text")
        if not cutter.reaches(text, floor + 1 if floor else 0):
            notes.drop(f"story of at most {floor} Llama-2 tokens", i)
            continue
        context = cutter.cut(text, limit)
        made.append(finish(DATASETS[NAME], settings, parts_of(i, row, context, demo), notes))
    if not made:
        raise ValueError(no_rows(NAME, floor, len(test)))
    return made


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every answer metric, the better of raw and parsed output, in 0..1."""
    return best_metrics(output, json.loads(doc["golds"]), PREFIX)


def questions(indices: Collection[int], data: DataSettings) -> dict[int, str]:
    """For the judge of answers: the question of each row."""
    files = split_files(NAME, "test", data)
    table = read_table(files, DEMO_FIELDS, FIELDS, Notes(), DEMO_FIELDS)
    return {i: inner_text(table[i], "question", "text") for i in indices}
