"""HELMET's InfiniteBench sets: questions, multiple choice, summaries of novels (arXiv 2402.13718)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.documents import Cutter, no_rows, tokenizer_files
from rr_bench.tasks.files.fields import Record, text_of, texts_of
from rr_bench.tasks.files.hub import Table, read_table, split_files
from rr_bench.tasks.files.keypoints import Expert, with_keypoints
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import chosen_rows, shuffled
from rr_bench.tasks.helmet_table import DATASETS, STORY_FLOOR, document_tokens
from rr_bench.tasks.metrics.answers import PREFIX, best_metrics
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

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
KEYPOINTS = ("infbench/longbook_sum_eng_keypoints.jsonl", "keypoints")
SHOTS = 2


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Files the rows depend on."""
    return split_files(HUB_SET, SPLITS[name], data) + tokenizer_files(data)


def options_text(row: Record) -> str:
    """The four options with their letters."""
    pairs = zip(LETTERS, texts_of(row, "options"), strict=False)
    return "\n".join(f"{letter}. {option}" for letter, option in pairs)


def letter_of(row: Record) -> str:
    """Letter of the right option.

    Raises:
        ValueError: the answer is none of the options.
    """
    answer, options = texts_of(row, "answer")[0], texts_of(row, "options")
    if answer not in options[: len(LETTERS)]:
        raise ValueError(f"{row.where}: the answer of id {row['id']} is none of the options")
    return LETTERS[options.index(answer)]


def demo_text(name: str, row: Record) -> str:
    """One answered example; its story is the literal ``[story text]``."""
    question = text_of(row, "input")
    if name == "infbench_choice":
        return fill(CHOICE_DEMO, question=question, options=options_text(row), letter=letter_of(row))
    if name == "infbench_qa":
        return fill(QA_DEMO, question=question, answer=texts_of(row, "answer")[0])
    return fill(SUM_DEMO, answer=texts_of(row, "answer")[0].strip())


def demo_block(name: str, row: Record, table: Table, ids: list[Any], seed: int) -> str:
    """Two examples from other rows of the same split, the same seed for every row."""
    others = [i for i, one in enumerate(ids) if one != row["id"]]
    chosen = [others[i] for i in shuffled(len(others), seed)[:SHOTS]]
    return fill(DEMOS, demos="\n\n".join(demo_text(name, table[i]) for i in chosen))


def golds_of(name: str, row: Record) -> list[str]:
    """Accepted answers; of multiple choice the letter, and the letter with its option."""
    if name != "infbench_choice":
        return texts_of(row, "answer")
    letter = letter_of(row)
    return [letter, f"{letter}. {texts_of(row, 'answer')[0]}"]


def parts_of(name: str, index: int, row: Record, context: str, demo: str) -> Parts:
    """One row as parts of a prompt."""
    options = options_text(row) if name == "infbench_choice" else ""
    question = text_of(row, "input")

    def user(text: str) -> str:
        return fill(USERS[name], demo=demo, context=text, question=question, options=options)

    extra = {
        "id": row["id"],
        "question": question,
        "document_cut": context != row["context"],
    }
    return Parts(index, context, user, LEADS[name], golds_of(name, row), join=JOIN, extra=extra)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """Rows of one of the datasets.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt, or every story is under the
            floor; the message names it.
    """
    found = split_files(HUB_SET, SPLITS[name], settings.data)
    table = read_table(found, FIELDS, FIELDS, notes)
    cutter = Cutter(settings)
    floor = STORY_FLOOR if settings.data.document_floor is None else settings.data.document_floor
    kept, ids = [], []
    for i in range(len(table)):
        row = table[i]
        ids.append(row["id"])
        if cutter.reaches(text_of(row, "context"), floor):
            kept.append(i)
        else:
            notes.drop(f"story under {floor} Llama-2 tokens", row["id"])
    if not kept:
        raise ValueError(no_rows(name, floor, len(table)))
    limit = document_tokens(name, settings.length)
    made = []
    for i in (kept[k] for k in chosen_rows(len(kept), settings.seed, settings.samples)):
        row = table[i]
        demo = demo_block(name, row, table, ids, settings.seed)
        context = cutter.cut(row["context"], limit)
        made.append(finish(DATASETS[name], settings, parts_of(name, i, row, context, demo), notes))
    return made


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every answer metric, in 0..1.

    Summaries are parsed after ``Answer:`` as well: HELMET uses its default there, though the prompt
    says ``Summary:``.
    """
    golds = json.loads(doc["golds"])
    if doc["dataset"] == "infbench_choice":
        return choice_metrics(output, golds)
    return best_metrics(output, golds, PREFIX)


def choice_metrics(output: str, golds: Sequence[str]) -> dict[str, float]:
    """Multiple choice: the letter, the letter with its text, or the latter anywhere in the output.

    The letter A is an article and normalises to nothing, so an empty answer to it counts as right.
    A substring match is one of the letter with its text only; the letter alone is in many answers.
    """
    found = best_metrics(output, golds, PREFIX)
    found["substring_exact_match"] = float(golds[1].lower() in output.lower())
    found["exact_match"] = max(found["exact_match"], found["substring_exact_match"])
    return found


def experts(golds: Mapping[int, Sequence[str]], data: DataSettings) -> dict[int, Expert]:
    """For the judge of summaries: what each row's is compared with, by row.

    Args:
        golds: accepted answers of each row; the first is the expert's.
        data: where the data lies; as in the run.
    """
    files = split_files(HUB_SET, SPLITS["infbench_sum"], data)
    table = read_table(files, FIELDS, FIELDS, Notes(), ("id",))
    summaries = {i: (table[i]["id"], accepted[0]) for i, accepted in golds.items()}
    return with_keypoints("infbench_sum", *KEYPOINTS, summaries, data)
