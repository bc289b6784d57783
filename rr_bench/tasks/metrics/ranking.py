"""Re-ranking: reading a ranking out of an answer, and grading it as ``trec_eval`` computes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

CHAIN = re.compile(r"\d+(?:\s*>\s*\d+)*")
DIGITS = 5
"""Decimals that HELMET keeps of every ranking metric of a row."""
CUTOFFS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


def parse_rankings(text: str) -> dict[str, int]:
    """Ids of the longest chain ``a > b > c`` with their scores, the first id highest.

    Brackets, colons and the letters "id" are ignored; a repeated id keeps its first score. A text
    without any integer becomes one id of its own, which matches nothing.
    """
    bare = re.sub(r"[\[\]:]", "", text).lower().replace("id", "")
    chains = CHAIN.findall(bare)
    items = [item.strip() for item in max(chains, key=len).split(">")] if chains else [text.strip()]
    scores: dict[str, int] = {}
    for place, item in enumerate(items):
        scores.setdefault(item, len(items) - place)
    return scores


def ndcg(scores: Mapping[str, float], qrels: Mapping[str, int], cutoff: int) -> float:
    """Normalised discounted cumulative gain, linear in the grades, rounded to 5 decimals.

    Args:
        scores: id to score; ids outside ``qrels`` occupy ranks without gain.
        qrels: id to grade; the ideal ranking is over all of them.
        cutoff: ranks that count.
    """
    gained = _gain(grades_of(scores, qrels)[:cutoff])
    ideal = _gain(sorted(qrels.values(), reverse=True)[:cutoff])
    return round(gained / ideal, DIGITS) if ideal else 0.0


def grades_of(scores: Mapping[str, float], qrels: Mapping[str, int]) -> list[int]:
    """Grades in the order of the scores; equal scores go by id, backwards."""
    ranked = sorted(scores, key=lambda one: (scores[one], one), reverse=True)
    return [qrels.get(one, 0) for one in ranked]


def _gain(grades: list[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))


def binary_metrics(grades: Sequence[int], relevant: int, cutoff: int) -> dict[str, float]:
    """Mean average precision, recall and precision of the first ranks; any grade above 0 is relevant.

    Args:
        grades: of the ranked ids, best first.
        relevant: ids with a grade above 0 that there are.
        cutoff: ranks that count.
    """
    hits = [rank for rank, grade in enumerate(grades[:cutoff], start=1) if grade > 0]
    precisions = (found / rank for found, rank in enumerate(hits, start=1))
    found = {
        f"MAP@{cutoff}": sum(precisions) / relevant if relevant else 0.0,
        f"Recall@{cutoff}": len(hits) / relevant if relevant else 0.0,
        f"P@{cutoff}": len(hits) / cutoff,
    }
    return {name: round(value, DIGITS) for name, value in found.items()}


def ranking_metrics(output: str, qrels: Mapping[str, int], passages: int) -> dict[str, float]:
    """Every metric at every cut-off up to the number of passages, and how many ids were named.

    Args:
        output: answer with its lead-in.
        qrels: id to grade over all passages of the row, cut ones included.
        passages: passages of a row of the file.
    """
    scores = parse_rankings(output)
    grades = grades_of(scores, qrels)
    relevant = sum(grade > 0 for grade in qrels.values())
    first = next((rank for rank, grade in enumerate(grades, start=1) if grade > 0), None)
    found = {"num_preds": float(len(scores)), "MRR": round(1 / first, DIGITS) if first else 0.0}
    for k in CUTOFFS:
        if k <= max(passages, 10):
            found[f"NDCG@{k}"] = ndcg(scores, qrels, k)
            found |= binary_metrics(grades, relevant, k)
    return found
