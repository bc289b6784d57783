"""ALCE's texts: removing citations, correctness of ASQA and QAMPARI (arXiv 2305.14627)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rr_bench.tasks.metrics.answers import norm

REFERENCE = re.compile(r"\[(\d+)")
TOP = 5


def clean_output(text: str) -> str:
    """One line: runs of newlines become a space, the end-of-turn marker goes."""
    return re.sub(r"\n+", " ", text).replace("<|im_end|>", "")


def remove_citations(text: str) -> str:
    """The text without ``[1]`` and its kin."""
    bare = re.sub(r"\[\d+", "", re.sub(r" \[\d+", "", text))
    return bare.replace(" |", "").replace("]", "")


def references(statement: str) -> list[int]:
    """Zero-based documents a statement cites, in order; ``[0]`` becomes -1."""
    return [int(number) - 1 for number in REFERENCE.findall(statement)]


def str_em(output: str, short_answers: Sequence[Sequence[str]]) -> float:
    """Share of the ambiguous question's parts with a short answer in the output, in 0..1.

    Args:
        output: answer of the model, citations still in it.
        short_answers: accepted strings of each part.
    """
    if not short_answers:
        return 0.0
    said = norm(remove_citations(clean_output(output)))
    hits = [any(norm(answer) in said for answer in part) for part in short_answers]
    return sum(hits) / len(hits)


def listed(output: str) -> list[str]:
    """Items of a comma-separated answer as they stand, the end stripped of ``.`` and ``,``."""
    return output.rstrip().rstrip(".").rstrip(",").split(",")


def qampari_metrics(output: str, answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and recall of the first five, in 0..1.

    Args:
        output: answer of the model, citations still in it.
        answers: accepted strings of each answer.
    """
    items = [norm(item) for item in listed(remove_citations(clean_output(output)))]
    items = [item for item in items if item]
    golds = [{norm(alias) for alias in aliases} for aliases in answers]
    found = sum(any(item in gold for item in items) for gold in golds)
    right = sum(any(item in gold for gold in golds) for item in items)
    precision = right / len(items) if items else 0.0
    recall = found / len(golds) if golds else 0.0
    top = min(TOP, found) / min(TOP, len(golds)) if golds else 0.0
    return {
        "qampari_prec": precision,
        "qampari_rec": recall,
        "qampari_rec_top5": top,
        "qampari_f1": _harmonic(precision, recall),
        "qampari_f1_top5": _harmonic(precision, top),
    }


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
