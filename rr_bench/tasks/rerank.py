"""HELMET's re-ranking: MS MARCO passages with graded relevance (TREC Deep Learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rr_bench.tasks.helmet_files import read_rows
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.kilt import files
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
from rr_bench.tasks.settings import Settings

PROMPTS = 1
SCORER = 1
"""Versions of the prompts built here and of their scores, in every result's identity."""

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


def passages(ctxs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each passage as it stands in a prompt; titles are shown if the first passage has one."""
    titled = "title" in ctxs[0]
    return [
        fill(
            TITLED if titled else PASSAGE,
            id=str(ctx["id"]),
            title=str(ctx.get("title", "")),
            text=str(ctx["text"]),
        )
        for ctx in ctxs
    ]


def demo_text(row: Mapping[str, Any], pool: Sequence[Mapping[str, Any]]) -> str:
    """Two rankings of other queries, drawn by the hash of the query's id."""
    order = shuffled(len(pool), text_seed(row["qid"]))
    chosen = first_distinct(order, [one["qid"] for one in pool], DEMOS)
    texts = []
    for one in (pool[i] for i in chosen):
        ranked = sorted(one["ctxs"], key=lambda ctx: -int(ctx["label"]))
        ranking = " > ".join(str(ctx["id"]) for ctx in ranked)
        shown = "\n\n".join(passages(one["ctxs"]))
        texts.append(fill(DEMO, passages=shown, question=one["query"], ranking=ranking))
    return "".join(texts)


def demo_pool(
    row: Mapping[str, Any], test: Sequence[Mapping[str, Any]], pool: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Demonstrations without the asked query; a large pool loses every test query."""
    large = len(pool) > 2 * len(test)
    banned = {one["qid"] for one in test} if large else {row["qid"]}
    return [one for one in pool if one["qid"] not in banned]


def parts_of(index: int, row: Mapping[str, Any], demos: str, count: int) -> Parts:
    """One row as parts of a prompt; grades cover all passages, cut ones included."""
    qrels = {str(ctx["id"]): int(ctx["label"]) for ctx in row["ctxs"]}
    shown = passages(row["ctxs"])
    relevant = [text for text, ctx in zip(shown, row["ctxs"], strict=True) if int(ctx["label"]) > 0]

    def user(context: str) -> str:
        return fill(USER, demos=demos, context=context, question=row["query"])

    def survived(context: str) -> bool:
        return all(text in context for text in relevant)

    golds = [key for key, grade in qrels.items() if grade > 0]
    extra = {"key": str(row["qid"]), "qrels": qrels, "passages": count}
    return Parts(index, "\n\n".join(shown), user, LEAD, golds, extra=extra, survived=survived)


def rows(*, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """The task's rows; ``metadata`` as in :class:`~rr_bench.tasks.settings.Settings`.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    dataset = DATASETS[NAME]
    settings = Settings.from_metadata(metadata)
    notes = Notes() if notes is None else notes
    test, pool = (
        read_rows(path, FIELDS, KNOWN, notes) for path in files(NAME, settings.length, settings.data)
    )
    keys = [row["qid"] for row in test]
    order = depth_order(keys, sample_keys(keys, KEYS, settings.seed))[: settings.samples]
    notes.fact("subset", "one order of the passages per query, then the next order of each")
    count = len(test[0]["ctxs"])
    return [
        finish(
            dataset,
            settings,
            parts_of(i, test[i], demo_text(test[i], demo_pool(test[i], test, pool)), count),
            notes,
        )
        for i in order
    ]


def build(**metadata: Any) -> dict[str, Any]:
    """lm-eval's ``custom_dataset``: ``{"test": Dataset}``."""
    notes = Notes()
    made = rows(notes=notes, **metadata)
    return as_split(made, notes.as_dict())
