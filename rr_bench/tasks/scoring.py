"""One answer's score, for every dataset beyond Recall.

``process_results`` returns HELMET's metrics that need no judge, in 0..1; ``score`` is the one
that enters the dataset's average (:mod:`rr_bench.suite`). Without a chat template the lead-in is put
before the output first, because that is where parsing looks for its prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rr_bench.suite import DATASETS
from rr_bench.tasks.citations import qampari_metrics, str_em
from rr_bench.tasks.metrics import best_metrics, exact_match, parse
from rr_bench.tasks.ranking import ranking_metrics

PREFIX = {"infbench_sum": "Summary:", "multi_lexsum": "Summary:"}
ANSWER = "Answer:"
LABEL = "label:"


def all_metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every metric of one output that needs no judge, in 0..1 (``num_preds`` is a count)."""
    name = doc["dataset"]
    golds, extra = json.loads(doc["golds"]), json.loads(doc["extra"])
    whole = doc["lead_in"] + output
    category = DATASETS[name].category
    if category == "rerank":
        return ranking_metrics(whole, extra["qrels"], extra["passages"])
    if category == "icl":
        return {"exact_match": exact_match(parse(whole, LABEL), golds)}
    if name == "alce_asqa":
        return {"str_em": str_em(whole, extra["answers"])}
    if name == "alce_qampari":
        return qampari_metrics(whole, extra["answers"])
    if name == "infbench_choice":
        return choice_metrics(whole, golds)
    return best_metrics(whole, golds, PREFIX.get(name, ANSWER))


def choice_metrics(output: str, golds: Sequence[str]) -> dict[str, float]:
    """Multiple choice: the letter, the letter with its text, or that text anywhere in the output.

    The letter A is an article and normalises to nothing, so an empty answer to it counts as right.
    """
    found = best_metrics(output, golds, ANSWER)
    if golds[1].lower() in output.lower():
        found["exact_match"] = 1.0
    return found


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: ``score`` in 0..1."""
    return {"score": all_metrics(doc, results[0])[DATASETS[doc["dataset"]].metric]}
