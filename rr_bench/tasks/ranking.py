"""Re-ranking: reading a ranking out of an answer, and NDCG as ``trec_eval`` computes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

CHAIN = re.compile(r"\d+(?:\s*>\s*\d+)*")
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
    ranked = sorted(scores, key=lambda one: (scores[one], one), reverse=True)
    gained = _gain([qrels.get(one, 0) for one in ranked[:cutoff]])
    ideal = _gain(sorted(qrels.values(), reverse=True)[:cutoff])
    return round(gained / ideal, 5) if ideal else 0.0


def _gain(grades: list[int]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))


def ranking_metrics(output: str, qrels: Mapping[str, int], passages: int) -> dict[str, float]:
    """NDCG at every cut-off up to the number of passages, and how many ids were named.

    Args:
        output: answer with its lead-in.
        qrels: id to grade over all passages of the row, cut ones included.
        passages: passages of a row of the file.
    """
    scores = parse_rankings(output)
    found = {f"NDCG@{k}": ndcg(scores, qrels, k) for k in CUTOFFS if k <= max(passages, 10)}
    return {**found, "num_preds": float(len(scores))}
