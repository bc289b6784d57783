"""HELMET's generation with citations: ALCE's ASQA and QAMPARI (arXiv 2305.14627).

The question stands before the documents. Scoring may see all retrieved documents, not only those
in the prompt. The instruction and the four demonstrations are HELMET's own prompt files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.fields import (
    Record,
    check_unicode,
    parts_of_list,
    passages_of,
    text_of,
    texts,
)
from rr_bench.tasks.files.jsonl import as_record, check_row, data_root, helmet_root
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import burned_draws, chosen_rows
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.citations import qampari_metrics, str_em
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

USER = "{demo_text}{instruction}\n\nQuestion: {question}\n\n{context}"
LEAD = "Answer:"
JOIN = "\n\n"
DOCUMENT = "Document [{ID}](Title: {title}): {text}"
DEMO = {
    "alce_asqa": "{instruction}\n\nQuestion: {question}\n\n{docs}\n\nAnswer: {answer}",
    "alce_qampari": "{instruction}\n\nQuestion: {question}\n\n{docs}\nAnswer: {answer}",
}
BETWEEN_DEMOS = "\n\n\n"

FIELDS = {
    "alce_asqa": ("question", "docs", "qa_pairs"),
    "alce_qampari": ("question", "docs", "answers"),
}
KNOWN = (
    *("question", "docs", "qa_pairs", "answers", "answer", "annotations", "wikipages"),
    *("sample_id", "id", "gold_answer_with_citations"),
)
CITED = ("question", "docs")
PROMPT_FIELDS = ("instruction", "demos")
SHOTS = 2


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Test file and prompt file.

    Raises:
        ValueError: one of them is missing, or HELMET has no number of documents for the length.
    """
    dataset, helmet_dir = DATASETS[name], helmet_root(name, data)
    if length not in dataset.knobs:
        raise ValueError(
            f"`lengths`={length}: {dataset.name} has documents for {sorted(dataset.knobs)} only"
        )
    test = data_root(helmet_dir) / dataset.folder / dataset.pattern
    file = dataset.name.removeprefix("alce_") + "_revised.json"
    options = [root / "prompts" / file for root in (helmet_dir, data_root(helmet_dir))]
    prompt = next((path for path in options if path.is_file()), options[0])
    for path in (test, prompt):
        if not path.is_file():
            raise ValueError(
                f"{dataset.name}: {path} is missing; `python -m rr_bench.download` gets it"
            )
    return [test, prompt]


def list_items(path: Path) -> Iterator[Any]:
    """Items of a JSON list, one at a time: the files are large.

    Raises:
        ValueError: the file is no JSON list.
    """
    text = path.read_text(encoding="utf-8")
    decoder, number = json.JSONDecoder(), 0
    escaped = "\\ud" in text or "\\uD" in text
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError(f"{path}: expected a JSON list")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ValueError(f"{path}: corrupt JSON ({error})") from error
        if escaped:
            check_unicode(value, f"{path}, row {number}")
        number += 1
        yield value
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def document(number: int, doc: Mapping[str, Any]) -> str:
    """A document as it stands in a prompt; numbers begin at 1."""
    return fill(DOCUMENT, ID=str(number), title=str(doc["title"]), text=str(doc["text"]))


def documents(docs: Sequence[Mapping[str, Any]]) -> str:
    """Numbered documents."""
    return "\n\n".join(document(number, doc) for number, doc in enumerate(docs, start=1))


def demo_text(name: str, prompt: Mapping[str, Any], chosen: list[int]) -> str:
    """Answered questions with their documents."""
    texts = [
        fill(
            DEMO[name],
            instruction=prompt["instruction"],
            question=demo["question"],
            docs=documents(demo["docs"]),
            answer=demo["answer"],
        )
        for demo in (prompt["demos"][i] for i in chosen)
    ]
    return "".join(text + BETWEEN_DEMOS for text in texts)


def read_prompt(path: Path) -> Record:
    """Instruction and demonstrations of a prompt file."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return check_row(as_record(prompt, str(path)), PROMPT_FIELDS)


def read_test(
    path: Path, name: str, settings: Settings, notes: Notes, shown: int
) -> tuple[int, dict[int, Record]]:
    """Number of rows, and the selected ones with their first ``shown`` documents."""
    held: dict[int, Record] = {}
    for number, row in enumerate(list_items(path)):
        kept = check_row(as_record(row, f"{path}, row {number}"), FIELDS[name], KNOWN, notes)
        docs = parts_of_list(kept, "docs")
        held[number] = Record({**kept, "docs": docs[:shown], "retrieved": len(docs)}, kept.where)
    if not held:
        raise ValueError(f"{path}: the file holds no rows")
    notes.read(path.name, len(held))
    chosen = chosen_rows(len(held), settings.seed, settings.samples)
    return len(held), {i: held[i] for i in chosen}


def answers_of(name: str, row: Record) -> list[list[str]]:
    """Accepted strings of each part of an answer; what HELMET scores against.

    Raises:
        ValueError: they are missing or no texts; file and row are named.
    """
    field = "qa_pairs" if name == "alce_asqa" else "answers"
    groups = []
    for i, one in enumerate(parts_of_list(row, field)):
        where = f"{row.where}: {field}[{i}]"
        if name == "alce_asqa":
            one = one.get("short_answers") if isinstance(one, Mapping) else None
            where += ".short_answers"
        groups.append(texts(one, where))
    return groups


def parts_of(name: str, index: int, row: Record, demos: str, instruction: str) -> Parts:
    """One row as parts of a prompt."""
    question, groups = text_of(row, "question"), answers_of(name, row)
    docs = passages_of(row, "docs", ("title", "text"))

    def user(context: str) -> str:
        return fill(
            USER,
            demo_text=demos,
            instruction=instruction,
            question=question,
            context=context,
        )

    extra = {
        "question": question,
        "answers": groups,
        "shown": len(docs),
        "retrieved": row["retrieved"],
    }
    golds = list(dict.fromkeys(answer for group in groups for answer in group))
    context = documents(docs)
    return Parts(index, context, user, LEAD, golds, join=JOIN, extra=extra)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """Rows of one of the datasets.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    test, prompt_file = files(name, settings.length, settings.data)
    prompt = read_prompt(prompt_file)
    shown = DATASETS[name].knobs[settings.length]
    count, chosen = read_test(test, name, settings, notes, shown)
    # HELMET draws for every row of the file, in file order, before it shuffles and drops rows.
    draws = list(burned_draws(count, len(prompt["demos"]), SHOTS, settings.seed))
    made = []
    for index, row in chosen.items():
        if len(row["docs"]) < shown:
            notes.flag(f"fewer than {shown} documents stored", index)
        demos = demo_text(name, prompt, draws[index])
        parts = parts_of(name, index, row, demos, prompt["instruction"])
        made.append(finish(DATASETS[name], settings, parts, notes))
    return made


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Correctness, in 0..1; citations need a judge."""
    answers = json.loads(doc["extra"])["answers"]
    if doc["dataset"] == "alce_qampari":
        return qampari_metrics(output, answers)
    share = str_em(output, answers)
    return {"str_em": share, "str_hit": float(share == 1)}


def cited(name: str, indices: Collection[int], data: DataSettings) -> dict[int, Record]:
    """For the judge of citations: question and all retrieved documents of each row.

    Raises:
        ValueError: the file is missing, or one of the rows has another form.
    """
    dataset = DATASETS[name]
    path = data_root(helmet_root(name, data)) / dataset.folder / dataset.pattern
    if not path.is_file():
        raise ValueError(f"{name}: {path} is missing")
    rows = ((i, row) for i, row in enumerate(list_items(path)) if i in indices)
    return {i: check_row(as_record(row, f"{path}, row {i}"), CITED) for i, row in rows}
