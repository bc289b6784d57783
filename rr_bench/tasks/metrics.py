"""Scores of the Recall tasks, as HELMET computes them (HELMET commit 4526dfb, ``utils.py``)."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
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
