"""HELMET's generation with citations: ALCE's ASQA and QAMPARI (arXiv 2305.14627).

The question stands before the documents. Scoring may see all retrieved documents, not only those
in the prompt. The instruction and the four demonstrations are HELMET's own prompt files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.helmet_files import check_row, data_root, helmet_root
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.prompt import Row, as_split
from rr_bench.tasks.render import Parts, fill, finish
from rr_bench.tasks.selection import burned_draws, shuffled
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

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
PROMPT_FIELDS = ("instruction", "demos")
SHOTS = 2
ROWS = 100


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
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError(f"{path}: expected a JSON list")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        try:
            value, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise ValueError(f"{path}: corrupt JSON ({error})") from error
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


def documents(docs: list[Mapping[str, Any]]) -> str:
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


def read_prompt(path: Path) -> dict[str, Any]:
    """Instruction and demonstrations of a prompt file."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    return check_row(prompt, str(path), PROMPT_FIELDS)


def read_test(
    path: Path, name: str, settings: Settings, notes: Notes, shown: int
) -> tuple[int, dict[int, dict[str, Any]]]:
    """Number of rows, and the selected ones with their first ``shown`` documents."""
    held: dict[int, dict[str, Any]] = {}
    for number, row in enumerate(list_items(path)):
        kept = check_row(row, f"{path}, row {number}", FIELDS[name], KNOWN, notes)
        held[number] = {**kept, "docs": kept["docs"][:shown], "retrieved": len(kept["docs"])}
    if not held:
        raise ValueError(f"{path}: the file holds no rows")
    notes.read(path.name, len(held))
    chosen = shuffled(len(held), settings.seed)[: min(ROWS, settings.samples)]
    return len(held), {i: held[i] for i in chosen}


def parts_of(name: str, index: int, row: Mapping[str, Any], demos: str, instruction: str) -> Parts:
    """One row as parts of a prompt."""
    if name == "alce_asqa":
        groups = [[str(one) for one in pair["short_answers"]] for pair in row["qa_pairs"]]
    else:
        groups = [[str(one) for one in aliases] for aliases in row["answers"]]

    def user(context: str) -> str:
        return fill(
            USER,
            demo_text=demos,
            instruction=instruction,
            question=row["question"],
            context=context,
        )

    extra = {
        "question": row["question"],
        "answers": groups,
        "shown": len(row["docs"]),
        "retrieved": row["retrieved"],
    }
    golds = list(dict.fromkeys(answer for group in groups for answer in group))
    context = documents(row["docs"])
    return Parts(index, context, user, LEAD, golds, join=JOIN, extra=extra)


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """Rows of the dataset that ``metadata["dataset"]`` names.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    dataset = DATASETS[metadata["dataset"]]
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    test, prompt_file = files(dataset.name, settings.length, settings.data)
    prompt = read_prompt(prompt_file)
    shown = dataset.knobs[settings.length]
    count, chosen = read_test(test, dataset.name, settings, notes, shown)
    # HELMET draws for every row of the file, in file order, before it shuffles and drops rows.
    draws = list(burned_draws(count, len(prompt["demos"]), SHOTS, settings.seed))
    made = []
    for index, row in chosen.items():
        if len(row["docs"]) < shown:
            notes.flag(f"fewer than {shown} documents stored", index)
        demos = demo_text(dataset.name, prompt, draws[index])
        parts = parts_of(dataset.name, index, row, demos, prompt["instruction"])
        made.append(finish(dataset, settings, parts, notes))
    return made


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
