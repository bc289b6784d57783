"""HELMET's Multi-LexSum: short summaries of civil-rights cases (arXiv 2206.10883).

HELMET draws the two demonstrations without a seed; here the run's seed draws them, once for all
rows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.documents import Cutter, no_rows, tokenizer_files
from rr_bench.tasks.files.fields import Record, text_of, texts_of
from rr_bench.tasks.files.hub import Table, read_table, split_files
from rr_bench.tasks.files.keypoints import Expert, with_keypoints
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import HELMET_ROWS, shuffled
from rr_bench.tasks.helmet_table import DATASETS, STORY_FLOOR, document_tokens
from rr_bench.tasks.metrics.answers import best_metrics
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

NAME = "multi_lexsum"
USER = (
    "You are given the legal documents in a civil rights lawsuit, and you are tasked to summarize the "
    "case. Write a concise summary of one paragraph (200 to 250 words). The summary should contain a "
    "short description of the background, the parties involved, and the outcomes of the case.\n\n"
    "{demo}Legal documents:\n{context}\n\nNow please summarize the case."
)
LEAD = "Summary:"
JOIN = "\n\n"
DEMO = "Summary: {summary}"
DEMOS = "Example summaries:\n\n{demos}\n\nNow, write a summary of the following legal documents.\n"
SHORT = "summary/short"
LONG = "summary/long"
KEYPOINTS = ("multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints")
DEMO_FIELDS = (SHORT,)
FIELDS = ("sources", SHORT, "id")
KNOWN = (*FIELDS, LONG, "summary/tiny", "case_metadata", "sources_metadata")
SHOTS = 2


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on, demonstrations first."""
    splits = [file for split in ("train", "validation") for file in split_files(name, split, data)]
    return splits + tokenizer_files(data)


def demo_block(train: Table, seed: int) -> str:
    """Two summaries of other cases."""
    chosen = []
    for i in shuffled(len(train), seed):
        row = train[i]
        if row[SHORT] is not None:
            chosen.append(fill(DEMO, summary=text_of(row, SHORT)))
        if len(chosen) == SHOTS:
            break
    return fill(DEMOS, demos="\n\n".join(chosen))


def parts_of(index: int, row: Record, context: str, demo: str, cut: bool) -> Parts:
    """One case as parts of a prompt."""

    def user(text: str) -> str:
        return fill(USER, demo=demo, context=text)

    extra = {"id": row["id"], "long_summary": row.get(LONG), "document_cut": cut}
    return Parts(index, context, user, LEAD, [text_of(row, SHORT)], join=JOIN, extra=extra)


def source_text(row: Record) -> str:
    """The case's documents as one text."""
    return "\n\n".join(texts_of(row, "sources"))


def long_cases(table: Table, cutter: Cutter, floor: int, notes: Notes) -> list[int]:
    """Rows with a short summary and enough text."""
    kept = []
    for i in range(len(table)):
        row = table[i]
        if row[SHORT] is None:
            notes.drop("case without a short summary", row["id"])
        elif not cutter.reaches(source_text(row), floor):
            notes.drop(f"case under {floor} Llama-2 tokens", row["id"])
        else:
            kept.append(i)
    return kept


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every case is under the
            floor; the message names it.
    """
    test = read_table(
        split_files(NAME, "validation", settings.data), FIELDS, KNOWN, notes, (*FIELDS, LONG)
    )
    train = read_table(
        split_files(NAME, "train", settings.data), DEMO_FIELDS, KNOWN, notes, DEMO_FIELDS
    )
    demo = demo_block(train, settings.seed)
    cutter = Cutter(settings)
    floor = STORY_FLOOR if settings.data.document_floor is None else settings.data.document_floor
    kept = long_cases(test, cutter, floor, notes)
    if not kept:
        raise ValueError(no_rows(NAME, floor, len(test)))
    order = kept  # as HELMET, which shuffles only to choose
    if len(kept) > HELMET_ROWS:
        order = [kept[i] for i in shuffled(len(kept), settings.seed)[:HELMET_ROWS]]
    made = []
    for i in order[: settings.samples]:
        text = source_text(test[i])
        context = cutter.cut(text, document_tokens(NAME, settings.length))
        parts = parts_of(i, test[i], context, demo, context != text)
        made.append(finish(DATASETS[NAME], settings, parts, notes))
    return made


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every answer metric, the better of raw and parsed output, in 0..1."""
    return best_metrics(output, json.loads(doc["golds"]), LEAD)


def experts(indices: Collection[int], data: DataSettings) -> dict[int, Expert]:
    """For the judge of summaries: what each row's is compared with, by row."""
    fields = ("id", LONG)
    table = read_table(split_files(NAME, "validation", data), fields, KNOWN, Notes(), fields)
    summaries = {i: (table[i]["id"], text_of(table[i], LONG)) for i in indices}
    return with_keypoints(NAME, *KEYPOINTS, summaries, data)
