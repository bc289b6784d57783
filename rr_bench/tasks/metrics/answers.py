"""Scores of short answers, as HELMET computes them (HELMET commit 4526dfb, ``utils.py``)."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)
THOUGHTS_END = "</think>"
PREFIX = "Answer:"
"""Where HELMET looks for an answer unless a dataset says otherwise."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def norm(text: str) -> str:
    """Lower-case, drop ASCII punctuation and articles, collapse whitespace.

    Punctuation is deleted, not replaced by a space, so ``Quick-Brown`` becomes ``quickbrown``.
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def parse(text: str, prefix: str) -> str:
    """The answer on the line of ``prefix``, or the first line if the prefix is absent.

    The prefix is found anywhere and in any case; one further copy at the start of the answer is
    dropped. A prefix that ends its line gives the empty string.
    """
    found = re.search(re.escape(prefix) + "(.*)", text, flags=re.IGNORECASE)
    answer = (found.group(1) if found else text.split("\n", 1)[0]).strip()
    if answer.lower().startswith(prefix.lower()):
        answer = answer[len(prefix) :].strip()
    return answer


def after_thoughts(output: str) -> str:
    """What a thinking model says once it has thought: the text after the last ``</think>``."""
    _, marker, answer = output.rpartition(THOUGHTS_END)
    return answer.strip() if marker else output


def substring_exact_match(prediction: str, golds: Sequence[str], prefix: str | None = None) -> float:
    """1.0 if a normalised gold is a substring of the normalised prediction, else 0.0.

    Args:
        prediction: raw output of the model.
        golds: accepted answers, at least one.
        prefix: if given, the better of the raw output and of ``parse(output, prefix)`` counts.

    Raises:
        ValueError: ``golds`` is empty.
    """
    if not golds:
        raise ValueError("substring_exact_match needs at least one gold answer; `golds` is empty")
    candidates = [prediction] if prefix is None else [prediction, parse(prediction, prefix)]
    normed = [norm(candidate) for candidate in candidates]
    return float(any(norm(gold) in candidate for gold in golds for candidate in normed))


def ruler_recall(prediction: str, golds: Sequence[str]) -> float:
    """Share of the gold strings found in the prediction, in 0..1; only case is ignored.

    Raises:
        ValueError: ``golds`` is empty.
    """
    if not golds:
        raise ValueError("ruler_recall needs at least one gold answer; `golds` is empty")
    lowered = prediction.lower()
    return sum(gold.lower() in lowered for gold in golds) / len(golds)


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if a normalised gold equals the normalised prediction, else 0.0."""
    return float(any(norm(prediction) == norm(gold) for gold in _some(golds, "exact_match")))


def token_f1(prediction: str, golds: Sequence[str]) -> float:
    """Best bag-of-words F1 of normalised texts; yes, no and noanswer have to match exactly."""
    return max(_token_f1(norm(prediction), norm(gold)) for gold in _some(golds, "token_f1"))


def _token_f1(prediction: str, gold: str) -> float:
    closed = {"yes", "no", "noanswer"}
    if prediction != gold and (prediction in closed or gold in closed):
        return 0.0
    said, wanted = prediction.split(), gold.split()
    common = sum((Counter(said) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def rouge(prediction: str, golds: Sequence[str]) -> dict[str, float]:
    """``rougeL`` and ``rougeLsum``, F1 and recall, each the best over the golds."""
    scorer = _rouge_scorer()
    found = [scorer.score(target=gold, prediction=prediction) for gold in _some(golds, "rouge")]
    return {
        f"{kind}_{name}": max(float(getattr(one[kind], attribute)) for one in found)
        for kind in ("rougeL", "rougeLsum")
        for name, attribute in (("f1", "fmeasure"), ("recall", "recall"))
    }


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL", "rougeLsum"], use_stemmer=True)


def qa_metrics(prediction: str, golds: Sequence[str]) -> dict[str, float]:
    """All answer metrics of one text, in 0..1."""
    return {
        "exact_match": exact_match(prediction, golds),
        "substring_exact_match": substring_exact_match(prediction, golds),
        "f1": token_f1(prediction, golds),
        **rouge(prediction, golds),
    }


def best_metrics(prediction: str, golds: Sequence[str], prefix: str) -> dict[str, float]:
    """HELMET's default post-processing: each metric the better of raw and parsed output."""
    raw = qa_metrics(prediction, golds)
    parsed = qa_metrics(parse(prediction, prefix), golds)
    return {name: max(raw[name], parsed[name]) for name in raw}


def _some(golds: Sequence[str], metric: str) -> Sequence[str]:
    if not golds:
        raise ValueError(f"{metric} needs at least one gold answer; `golds` is empty")
    return golds
