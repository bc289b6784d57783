"""HELMET's Multi-LexSum: short summaries of civil-rights cases (arXiv 2206.10883).

HELMET draws the two demonstrations without a seed; here the run's seed draws them, once for all
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.documents import Cutter, tokenizer_files
from rr_bench.tasks.helmet_table import DATASETS, STORY_FLOOR, document_tokens
from rr_bench.tasks.hubsets import Table, read_table, split_files
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.prompt import Row, as_split
from rr_bench.tasks.render import Parts, fill, finish
from rr_bench.tasks.selection import shuffled
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.stories import no_rows

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

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
DEMO_FIELDS = (SHORT,)
FIELDS = ("sources", SHORT, "id")
KNOWN = (*FIELDS, "summary/long", "summary/tiny", "case_metadata", "sources_metadata")
SHOTS = 2
ROWS = 100


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on, demonstrations first."""
    splits = [file for split in ("train", "validation") for file in split_files(name, split, data)]
    return splits + tokenizer_files(data)


def demo_block(train: Table, seed: int) -> str:
    """Two summaries of other cases."""
    chosen = []
    for i in shuffled(len(train), seed):
        summary = train[i][SHORT]
        if summary is not None:
            chosen.append(fill(DEMO, summary=summary))
        if len(chosen) == SHOTS:
            break
    return fill(DEMOS, demos="\n\n".join(chosen))


def parts_of(index: int, row: Mapping[str, Any], context: str, demo: str, cut: bool) -> Parts:
    """One case as parts of a prompt."""

    def user(text: str) -> str:
        return fill(USER, demo=demo, context=text)

    extra = {"id": row["id"], "long_summary": row.get("summary/long"), "document_cut": cut}
    return Parts(index, context, user, LEAD, [row[SHORT]], join=JOIN, extra=extra)


def long_cases(table: Table, cutter: Cutter, floor: int, notes: Notes) -> list[int]:
    """Rows with a short summary and enough text."""
    kept = []
    for i in range(len(table)):
        row = table[i]
        if row[SHORT] is None:
            notes.drop("case without a short summary", row["id"])
        elif not cutter.reaches("\n\n".join(row["sources"]), floor):
            notes.drop(f"case under {floor} Llama-2 tokens", row["id"])
        else:
            kept.append(i)
    return kept


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """The task's rows; ``metadata`` as in :class:`~rr_bench.tasks.settings.Settings`.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every case is under the
            floor; the message names it.
    """
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    test = read_table(
        split_files(NAME, "validation", settings.data), FIELDS, KNOWN, notes, (*FIELDS, "summary/long")
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
    order = kept
    if len(kept) > ROWS:
        order = [kept[i] for i in shuffled(len(kept), settings.seed)[:ROWS]]
    made = []
    for i in order[: settings.samples]:
        text = "\n\n".join(test[i]["sources"])
        context = cutter.cut(text, document_tokens(NAME, settings.length))
        parts = parts_of(i, test[i], context, demo, context != text)
        made.append(finish(DATASETS[NAME], settings, parts, notes))
    return made


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
