"""HELMET's InfiniteBench sets: questions, multiple choice, summaries of novels (arXiv 2402.13718)."""

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

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

QA_USER = (
    "You are given a story and a question. Answer the question as concisely as you can, using a single "
    "phrase if possible.\n\n{demo}{context}\n\nQuestion: {question}"
)
CHOICE_USER = (
    "You are given a story and a question with multiple choices. Choose the best answer from the "
    "options provided. Only one of the following options is correct, output the answer using one "
    "single letter (A, B, C, or D). Don't say anything else.\n\n{demo}{context}\n\n"
    "Question: {question}\nOptions:\n{options}"
)
SUM_USER = (
    "You are given a book and you are tasked to summarize it. Write a summary of about 1000 to 1200 "
    "words. Only write about the plot and characters of the story. Do not discuss the themes or "
    "background of the book. Do not provide any analysis or commentary.\n\n{demo}{context}\n\n"
    "Now summarize the book."
)
QA_DEMO = "[story text]\nQuestion: {question}\nAnswer: {answer}"
CHOICE_DEMO = "[story text]\nQuestion: {question}\nOptions:\n{options}\nAnswer: {letter}"
SUM_DEMO = "[story text]\nSummary: {answer}"
DEMOS = "For example:\n\n{demos}\n\nNow, read the following story:\n\n"
JOIN = "\n\n"
LETTERS = "ABCD"

HUB_SET = "infinitebench"
SPLITS = {
    "infbench_qa": "longbook_qa_eng",
    "infbench_choice": "longbook_choice_eng",
    "infbench_sum": "longbook_sum_eng",
}
USERS = {"infbench_qa": QA_USER, "infbench_choice": CHOICE_USER, "infbench_sum": SUM_USER}
LEADS = {"infbench_qa": "Answer:", "infbench_choice": "Answer:", "infbench_sum": "Summary:"}
FIELDS = ("id", "context", "input", "answer", "options")
SHOTS = 2
ROWS = 100


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on."""
    return split_files(HUB_SET, SPLITS[name], data) + tokenizer_files(data)


def options_text(row: Mapping[str, Any]) -> str:
    """The four options with their letters."""
    pairs = zip(LETTERS, row["options"], strict=False)
    return "\n".join(f"{letter}. {option}" for letter, option in pairs)


def letter_of(row: Mapping[str, Any]) -> str:
    """Letter of the right option.

    Raises:
        ValueError: the answer is none of the options.
    """
    answer = row["answer"][0]
    if answer not in row["options"][: len(LETTERS)]:
        raise ValueError(f"infbench_choice, row {row['id']}: the answer is none of the options")
    return LETTERS[row["options"].index(answer)]


def demo_text(name: str, row: Mapping[str, Any]) -> str:
    """One answered example; its story is the literal ``[story text]``."""
    if name == "infbench_choice":
        return fill(
            CHOICE_DEMO,
            question=row["input"],
            options=options_text(row),
            letter=letter_of(row),
        )
    if name == "infbench_qa":
        return fill(QA_DEMO, question=row["input"], answer=row["answer"][0])
    return fill(SUM_DEMO, answer=row["answer"][0].strip())


def demo_block(name: str, row: Mapping[str, Any], table: Table, ids: list[Any], seed: int) -> str:
    """Two examples from other rows of the same split, the same seed for every row."""
    others = [i for i, one in enumerate(ids) if one != row["id"]]
    chosen = [others[i] for i in shuffled(len(others), seed)[:SHOTS]]
    return fill(DEMOS, demos="\n\n".join(demo_text(name, table[i]) for i in chosen))


def golds_of(name: str, row: Mapping[str, Any]) -> list[str]:
    """Accepted answers; of multiple choice the letter, and the letter with its option."""
    if name != "infbench_choice":
        return [str(answer) for answer in row["answer"]]
    letter = letter_of(row)
    return [letter, f"{letter}. {row['answer'][0]}"]


def parts_of(name: str, index: int, row: Mapping[str, Any], context: str, demo: str) -> Parts:
    """One row as parts of a prompt."""
    options = options_text(row) if name == "infbench_choice" else ""

    def user(text: str) -> str:
        return fill(USERS[name], demo=demo, context=text, question=row["input"], options=options)

    extra = {
        "id": row["id"],
        "question": row["input"],
        "document_cut": context != row["context"],
    }
    return Parts(index, context, user, LEADS[name], golds_of(name, row), join=JOIN, extra=extra)


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """Rows of the dataset that ``metadata["dataset"]`` names.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every story is under the
            floor; the message names it.
    """
    dataset = DATASETS[metadata["dataset"]]
    name = dataset.name
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    found = split_files(HUB_SET, SPLITS[name], settings.data)
    table = read_table(found, FIELDS, FIELDS, notes)
    cutter = Cutter(settings)
    floor = STORY_FLOOR if settings.data.document_floor is None else settings.data.document_floor
    kept, ids = [], []
    for i in range(len(table)):
        row = table[i]
        ids.append(row["id"])
        if cutter.reaches(row["context"], floor):
            kept.append(i)
        else:
            notes.drop(f"story under {floor} Llama-2 tokens", row["id"])
    if not kept:
        raise ValueError(no_rows(name, floor, len(table)))
    limit = document_tokens(name, settings.length)
    order = [kept[i] for i in shuffled(len(kept), settings.seed)]
    made = []
    for i in order[: min(ROWS, settings.samples)]:
        row = table[i]
        demo = demo_block(name, row, table, ids, settings.seed)
        context = cutter.cut(row["context"], limit)
        made.append(finish(dataset, settings, parts_of(name, i, row, context, demo), notes))
    return made


def no_rows(name: str, floor: int, count: int) -> str:
    """The message when a floor leaves nothing."""
    return (
        f"{name}: all {count} documents are under the floor of {floor} Llama-2 tokens; "
        "data.document_floor=0 keeps them"
    )


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
