"""HELMET's RAG: Natural Questions, TriviaQA, HotpotQA and PopQA over KILT passages.

Every question stands in its file once per depth of its gold passage, and all depths are scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.fields import Record, passages_of, positive_of, text_of, texts_of
from rr_bench.tasks.files.jsonl import (
    data_root,
    find_file,
    helmet_root,
    read_rows,
    row_at,
    scan_rows,
)
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import (
    depth_order,
    first_distinct,
    sample_keys,
    shuffled,
    text_seed,
)
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.answers import best_metrics, norm
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

PROMPTS = 1
SCORER = 1

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
    return "\n\n".join(fill(PASSAGE, title=ctx["title"], text=ctx["text"]) for ctx in ctxs)


def demo_text(row: Record, pool: Sequence[Record], key: str, others: bool) -> str:
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
    return "".join(f"{demo(pool[i])}\n\n" for i in chosen)


def demo(row: Record) -> str:
    """One answered question with its passages."""
    return fill(
        DEMO,
        passages=passages(passages_of(row, "ctxs", ("title", "text"))),
        question=text_of(row, "question"),
        answer=texts_of(row, "answers")[0],
    )


def unpopular(row: Record) -> bool:
    """Whether a row of PopQA, in data or demonstrations, is about a rarely visited subject."""
    return math.log10(positive_of(row, "s_pop")) < POPULAR


def gold_passages(row: Mapping[str, Any]) -> list[str]:
    """Texts of the row's gold passages, by whichever of the layouts marks them."""
    ctxs = row["ctxs"]
    positions = row.get("gold_positions")
    if positions is not None:
        return [passages([ctxs[i]]) for i in positions]
    texts = {str(one["text"]) for one in row.get("positive_ctxs") or []}
    return [passages([ctx]) for ctx in ctxs if str(ctx["text"]) in texts or ctx.get("is_gold")]


def parts_of(index: int, row: Record, demos: str, key: str = "question") -> Parts:
    """One row as parts of a prompt; ``key`` is the field that tells questions apart."""
    question, golds = text_of(row, "question"), texts_of(row, "answers")
    ctxs = passages_of(row, "ctxs", ("title", "text"))
    evidence = gold_passages(row)

    def user(context: str) -> str:
        return fill(USER, demos=demos, context=context, question=question)

    def survived(context: str) -> bool:
        if evidence:
            return all(text in context for text in evidence)
        kept = norm(context)
        return any(norm(gold) in kept for gold in golds)

    extra = {"key": str(row[key]), "depth": row.get("depth"), "passages": len(ctxs)}
    return Parts(index, passages(ctxs), user, LEAD, golds, extra=extra, survived=survived)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """Rows of one of the four datasets.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    test, demos = files(name, settings.length, settings.data)
    popqa = "popqa" in name
    required = (*FIELDS, "s_pop") if popqa else FIELDS
    # Without their passages, of which a file of HELMET's holds gigabytes.
    briefs = [
        (start, Record({field: row[field] for field in row if field in BRIEF}, row.where))
        for start, row in scan_rows(test, required, KNOWN, notes)
        if not popqa or unpopular(row)
    ]
    if not briefs:
        raise ValueError(f"{test}: no row is about a rare subject (log10 of s_pop under {POPULAR})")
    key = "id" if "id" in briefs[0][1] else "question"
    pool = read_rows(demos, (*required, key), KNOWN, notes)
    pool = [row for row in pool if not popqa or unpopular(row)]
    keys = [_key_of(row, key) for _, row in briefs]
    order = depth_order(keys, sample_keys(keys, KEYS, settings.seed))[: settings.samples]
    notes.fact("subset", "one depth per question, depths in turn, then the next depth of each")
    made = []
    for i in order:
        start, brief = briefs[i]
        row = row_at(test, start, brief.where)
        parts = parts_of(i, row, demo_text(row, pool, key, popqa), key)
        made.append(finish(DATASETS[name], settings, parts, notes))
    return made


def _key_of(row: Record, key: str) -> Any:
    if not isinstance(row.get(key), str | int):
        raise ValueError(f"{row.where}: {key} must be text or a number, got {row.get(key)!r}")
    return row[key]


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every answer metric, the better of raw and parsed output, in 0..1."""
    return best_metrics(output, json.loads(doc["golds"]), LEAD)
