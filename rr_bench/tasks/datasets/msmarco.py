"""HELMET's re-ranking: MS MARCO passages with graded relevance (TREC Deep Learning)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rr_bench.tasks.datasets.kilt import files
from rr_bench.tasks.files.fields import Record, passages_of, text_of
from rr_bench.tasks.files.jsonl import read_rows
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.selection import (
    depth_order,
    first_distinct,
    sample_keys,
    shuffled,
    text_seed,
)
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.ranking import ranking_metrics
from rr_bench.tasks.prompts.render import Parts, fill, finish
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import Settings

__all__ = ["files", "metrics", "rows"]

PROMPTS = 1
SCORER = 1

NAME = "msmarco_rerank"
USER = (
    "You are provided with a list of documents, each indicated by their ID. Rank each document based "
    "on their relevance to the question in descending order from most relelvant to least relevant "
    "texts. Include all documents in the rankings. Write your answer using the unique IDs, with the "
    "following format:\nRanking: ID3 > ID1 > ID2\n\n{demos}{context}\n\nQuery: {question}"
)
LEAD = "Ranking:"
PASSAGE = "[ID: {id}] Document: {text}"
TITLED = "[ID: {id}] Document (Title: {title}): {text}"
DEMO = "{passages}\n\nQuery: {question}\nRanking: {ranking}\n\n"

FIELDS = ("qid", "query", "ctxs")
KNOWN = (*FIELDS, "qrels")
KEYS = 100
DEMOS = 2


def ranked_passages(row: Record, titled: bool) -> list[dict[str, Any]]:
    """A row's passages, at least one, each with a text, a grade and, if it is shown, a title.

    Raises:
        ValueError: a passage has none of these; file and row are named.
    """
    found = passages_of(row, "ctxs", ("text", "title") if titled else ("text",))
    if not found:
        raise ValueError(f"{row.where}: ctxs is empty: there is nothing to rank")
    for i, ctx in enumerate(found):
        grade = ctx.get("label")
        if not isinstance(grade, int) or isinstance(grade, bool):
            raise ValueError(f"{row.where}: ctxs[{i}].label must be a grade, got {grade!r}")
        if not isinstance(ctx.get("id"), str | int):
            raise ValueError(f"{row.where}: ctxs[{i}].id must be a name, got {ctx.get('id')!r}")
    return found


def has_titles(row: Record) -> bool:
    """Whether a row's passages, and those of its demonstrations, are shown with their titles."""
    first = passages_of(row, "ctxs", ("text",))[:1]
    return bool(first) and "title" in first[0]


def passages(ctxs: Sequence[Mapping[str, Any]], titled: bool) -> list[str]:
    """Each passage as it stands in a prompt."""
    return [
        fill(
            TITLED if titled else PASSAGE,
            id=str(ctx["id"]),
            title=str(ctx.get("title", "")),
            text=str(ctx["text"]),
        )
        for ctx in ctxs
    ]


def demo_text(row: Record, pool: Sequence[Record]) -> str:
    """Two rankings of other queries, drawn by the hash of the query's id."""
    titled = has_titles(row)
    order = shuffled(len(pool), text_seed(row["qid"]))
    chosen = first_distinct(order, [one["qid"] for one in pool], DEMOS)
    texts = []
    for one in (pool[i] for i in chosen):
        ctxs = ranked_passages(one, titled)
        ranked = sorted(ctxs, key=lambda ctx: -ctx["label"])
        ranking = " > ".join(str(ctx["id"]) for ctx in ranked)
        shown = "\n\n".join(passages(ctxs, titled))
        texts.append(fill(DEMO, passages=shown, question=text_of(one, "query"), ranking=ranking))
    return "".join(texts)


def demo_pool(
    row: Mapping[str, Any], test: Sequence[Mapping[str, Any]], pool: Sequence[Record]
) -> list[Record]:
    """Demonstrations without the asked query; a large pool loses every test query.

    Args:
        row: the asked row.
        test: every row of the chosen queries.
        pool: demonstration rows.
    """
    large = len(pool) > 2 * len(test)
    banned = {one["qid"] for one in test} if large else {row["qid"]}
    return [one for one in pool if one["qid"] not in banned]


def parts_of(index: int, row: Record, demos: str, count: int) -> Parts:
    """One row as parts of a prompt; grades cover all passages, cut ones included."""
    titled, query = has_titles(row), text_of(row, "query")
    ctxs = ranked_passages(row, titled)
    qrels = {str(ctx["id"]): ctx["label"] for ctx in ctxs}
    shown = passages(ctxs, titled)
    relevant = [text for text, ctx in zip(shown, ctxs, strict=True) if ctx["label"] > 0]

    def user(context: str) -> str:
        return fill(USER, demos=demos, context=context, question=query)

    def survived(context: str) -> bool:
        return all(text in context for text in relevant)

    golds = [key for key, grade in qrels.items() if grade > 0]
    extra = {"key": str(row["qid"]), "qrels": qrels, "passages": count}
    return Parts(index, "\n\n".join(shown), user, LEAD, golds, extra=extra, survived=survived)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    paths = files(name, settings.length, settings.data)
    test, pool = (read_rows(path, FIELDS, KNOWN, notes) for path in paths)
    keys = [row["qid"] for row in test]
    chosen = sample_keys(keys, KEYS, settings.seed)
    scored = [row for row in test if row["qid"] in set(chosen)]
    notes.fact("subset", "one order of the passages per query, then the next order of each")
    # HELMET's cut-offs follow the first row it keeps.
    count = len(ranked_passages(scored[0], has_titles(scored[0])))
    made = []
    for i in depth_order(keys, chosen)[: settings.samples]:
        demos = demo_text(test[i], demo_pool(test[i], scored, pool))
        made.append(finish(DATASETS[name], settings, parts_of(i, test[i], demos, count), notes))
    return made


def metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every ranking metric, in 0..1; ``num_preds`` is a count."""
    extra = json.loads(doc["extra"])
    return ranking_metrics(output, extra["qrels"], extra["passages"])
