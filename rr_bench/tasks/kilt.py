"""HELMET's RAG: Natural Questions, TriviaQA, HotpotQA and PopQA over KILT passages.

Every question stands in its file once per depth of its gold passage, and all depths are scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.helmet_files import data_root, find_file, helmet_root, read_rows, row_at, scan_rows
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics import norm
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.prompt import Row, as_split
from rr_bench.tasks.render import Parts, fill, finish
from rr_bench.tasks.selection import (
    depth_order,
    first_distinct,
    sample_keys,
    shuffled,
    text_seed,
)
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

USER = (
    "Use the given documents to write a concise and short answer to the question. Write your answer "
    "in the following format:\nAnswer: [answer]\n\n{demos}{context}\n\nQuestion: {question}"
)
LEAD = "Answer:"
PASSAGE = "Document (Title: {title}): {text}"
DEMO = "{passages}\n\nQuestion: {question}\nAnswer: {answer}"

FIELDS = ("question", "answers", "ctxs")
GOLD = ("positive_ctxs", "gold_positions")
KNOWN = (
    *FIELDS,
    *GOLD,
    *("id", "hard_negative_ctxs", "negative_ctxs", "depth", "gold_doc", "kilt_id"),
    *("s_pop", "o_pop", "subj", "prop", "obj", "s_uri", "o_uri", "s_wiki_title", "o_wiki_title"),
    *("subj_id", "prop_id", "obj_id", "s_aliases", "o_aliases", "possible_answers"),
)
BRIEF = ("id", "question")
"""What is needed of a row to choose among the rows."""
KEYS = 100
DEMOS = 2
POPULAR = 3
"""PopQA's limit on log10 of the subject's monthly page views."""


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """Test file of the length and file of the demonstrations.

    Raises:
        ValueError: one of them is missing.
    """
    dataset, helmet_dir = DATASETS[name], helmet_root(name, data)
    folder = data_root(helmet_dir) / dataset.folder
    options = {size: folder / dataset.pattern.format(k=k) for size, k in dataset.knobs.items()}
    test = find_file(dataset.name, length, helmet_dir, options)
    demos = folder / dataset.demos
    if not demos.is_file():
        raise ValueError(f"{dataset.name}: the demonstrations are missing: {demos}")
    return [test, demos]


def passages(ctxs: Sequence[Mapping[str, Any]]) -> str:
    """Passages as they stand in a prompt."""
    return "\n\n".join(fill(PASSAGE, title=str(ctx["title"]), text=str(ctx["text"])) for ctx in ctxs)


def demo_text(row: Mapping[str, Any], pool: Sequence[Mapping[str, Any]], key: str, others: bool) -> str:
    """Two answered questions, drawn by the hash of the row's key.

    Args:
        row: the asked row.
        pool: demonstration rows.
        key: field that tells questions apart.
        others: leave out rows with the key of the asked one, as for PopQA.
    """
    pool = [one for one in pool if one[key] != row[key]] if others else pool
    order = shuffled(len(pool), text_seed(row[key]))
    chosen = first_distinct(order, [one[key] for one in pool], DEMOS)
    texts = [
        fill(
            DEMO,
            passages=passages(pool[i]["ctxs"]),
            question=pool[i]["question"],
            answer=str(pool[i]["answers"][0]),
        )
        for i in chosen
    ]
    return "".join(text + "\n\n" for text in texts)


def unpopular(row: Mapping[str, Any]) -> bool:
    """Whether a row of PopQA, in data or demonstrations, is about a rarely visited subject."""
    return math.log10(row["s_pop"]) < POPULAR


def gold_passages(row: Mapping[str, Any]) -> list[str]:
    """Texts of the row's gold passages, by whichever of the layouts marks them."""
    ctxs = row["ctxs"]
    positions = row.get("gold_positions")
    if positions is not None:
        return [passages([ctxs[i]]) for i in positions]
    texts = {str(one["text"]) for one in row.get("positive_ctxs") or []}
    return [passages([ctx]) for ctx in ctxs if str(ctx["text"]) in texts or ctx.get("is_gold")]


def parts_of(index: int, row: Mapping[str, Any], demos: str, key: str = "question") -> Parts:
    """One row as parts of a prompt; ``key`` is the field that tells questions apart."""
    golds = [str(answer) for answer in row["answers"]]
    evidence = gold_passages(row)

    def user(context: str) -> str:
        return fill(USER, demos=demos, context=context, question=row["question"])

    def survived(context: str) -> bool:
        if evidence:
            return all(text in context for text in evidence)
        kept = norm(context)
        return any(norm(gold) in kept for gold in golds)

    extra = {"key": str(row[key]), "depth": row.get("depth"), "passages": len(row["ctxs"])}
    return Parts(index, passages(row["ctxs"]), user, LEAD, golds, extra=extra, survived=survived)


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """Rows of the dataset that ``metadata["dataset"]`` names.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    dataset = DATASETS[metadata["dataset"]]
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    popqa = "popqa" in dataset.name
    required = (*FIELDS, "s_pop") if popqa else FIELDS
    test, demos = files(dataset.name, settings.length, settings.data)
    # Without their passages, of which a file of HELMET's holds gigabytes.
    briefs = [
        (start, {name: row[name] for name in row if name in BRIEF})
        for start, row in scan_rows(test, required, KNOWN, notes)
        if not popqa or unpopular(row)
    ]
    key = "id" if briefs and "id" in briefs[0][1] else "question"
    pool = read_rows(demos, (*required, key), KNOWN, notes)
    pool = [row for row in pool if not popqa or unpopular(row)]
    keys = [row[key] for _, row in briefs]
    order = depth_order(keys, sample_keys(keys, KEYS, settings.seed))[: settings.samples]
    notes.fact("subset", "one depth per question, depths in turn, then the next depth of each")
    made = []
    for i in order:
        row = row_at(test, briefs[i][0])
        parts = parts_of(i, row, demo_text(row, pool, key, popqa), key)
        made.append(finish(dataset, settings, parts, notes))
    return made


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
