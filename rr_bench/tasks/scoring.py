"""One answer's score, for every dataset beyond Recall.

``process_results`` returns HELMET's metrics that need no judge, in 0..1 (``num_preds`` is a count);
``score`` is the one that enters the dataset's average (:mod:`rr_bench.tasks.helmet_table`). A
thinking model's thoughts are dropped; without a chat template the lead-in is put before what is left,
because that is where parsing looks for its prefix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rr_bench.tasks.citations import qampari_metrics, str_em
from rr_bench.tasks.helmet_table import DATASETS, Dataset
from rr_bench.tasks.metrics import after_thoughts, best_metrics, exact_match, parse
from rr_bench.tasks.ranking import CUTOFFS, ranking_metrics

PREFIX = {"infbench_sum": "Summary:", "multi_lexsum": "Summary:"}
ANSWER = "Answer:"
LABEL = "label:"


def all_metrics(doc: Mapping[str, Any], output: str) -> dict[str, float]:
    """Every metric of one output that needs no judge, in 0..1 (``num_preds`` is a count)."""
    name = doc["dataset"]
    golds, extra = json.loads(doc["golds"]), json.loads(doc["extra"])
    whole = doc["lead_in"] + after_thoughts(output)
    category = DATASETS[name].category
    if category == "rerank":
        return ranking_metrics(whole, extra["qrels"], extra["passages"])
    if category == "icl":
        return {"exact_match": exact_match(parse(whole, LABEL), golds)}
    if name == "alce_asqa":
        share = str_em(whole, extra["answers"])
        return {"str_em": share, "str_hit": float(share == 1)}
    if name == "alce_qampari":
        return qampari_metrics(whole, extra["answers"])
    if name == "infbench_choice":
        return choice_metrics(whole, golds)
    return best_metrics(whole, golds, PREFIX.get(name, ANSWER))


def metric_names(dataset: Dataset) -> list[str]:
    """What :func:`process_results` may return for a dataset."""
    if dataset.category == "rerank":
        kinds = ("NDCG", "MAP", "Recall", "P")
        return ["score", "num_preds", "MRR", *(f"{kind}@{k}" for k in CUTOFFS for kind in kinds)]
    sample = {
        "dataset": dataset.name,
        "golds": json.dumps(["x", "A. x"]),
        "extra": json.dumps({"answers": [["x"]]}),
        "lead_in": "",
    }
    return list(process_results(sample, ["x"]))


def choice_metrics(output: str, golds: Sequence[str]) -> dict[str, float]:
    """Multiple choice: the letter, the letter with its text, or that text anywhere in the output.

    The letter A is an article and normalises to nothing, so an empty answer to it counts as right.
    """
    found = best_metrics(output, golds, ANSWER)
    if golds[1].lower() in output.lower():
        found["exact_match"] = 1.0
    return found


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: ``score`` in 0..1, and every metric under HELMET's name."""
    found = all_metrics(doc, results[0])
    return {"score": found[DATASETS[doc["dataset"]].metric], **found}
