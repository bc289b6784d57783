"""ALCE's citation recall and precision (AutoAIS), given an entailment judge (arXiv 2305.14627)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rr_bench.tasks.metrics.citations import clean_output, listed, references, remove_citations

Entails = Callable[[str, str], bool]
"""(premise, claim) to whether it is entailed."""
MOST_REFERENCES = 3
SHORTEST = 5


@dataclass(frozen=True)
class Statement:
    """One checkable sentence or list item.

    Attributes:
        claim: its text without citations.
        refs: zero-based documents it cites, at most three; None if it cites none or an unknown one.
    """

    claim: str
    refs: tuple[int, ...] | None


@dataclass(frozen=True)
class RowScore:
    """Citation recall and precision of one output, in 0..1."""

    recall: float
    precision: float


def passage(doc: Mapping[str, Any]) -> str:
    """A document as a premise."""
    return f"Title: {doc['title']}\n{doc['text']}"


def statements(
    name: str,
    output: str,
    question: str,
    documents: int,
    sentences: Callable[[str], Sequence[str]],
) -> list[Statement]:
    """What an output claims; of QAMPARI's an empty one too, which no document can support.

    Args:
        name: ``alce_asqa`` or ``alce_qampari``.
        output: answer with its lead-in, citations still in it.
        question: the question; QAMPARI's items are only statements together with it.
        documents: how many documents can be cited, those outside the prompt included.
        sentences: sentence splitter.
    """
    text = clean_output(output)
    if name == "alce_qampari":
        parts = [f"{question} {item.strip()}" for item in listed(text)]
    else:
        parts = [part for part in sentences(text) if len(part.strip()) >= SHORTEST]
    made = []
    for part in parts:
        refs = tuple(references(part))
        known = bool(refs) and all(ref < documents for ref in refs)
        claim = remove_citations(part).strip()
        made.append(Statement(claim, refs[:MOST_REFERENCES] if known else None))
    return made


def premises(refs: Sequence[int], docs: Sequence[Mapping[str, Any]]) -> str:
    """The cited documents as one premise."""
    return "\n".join(passage(docs[ref]) for ref in refs)


def without(refs: Sequence[int], ref: int) -> list[int]:
    """The references less one occurrence of ``ref``."""
    rest = list(refs)
    rest.remove(ref)
    return rest


def pairs(found: Sequence[Statement], docs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every premise and claim that scoring may ask about."""
    for one in found:
        if one.refs is None:
            continue
        yield premises(one.refs, docs), one.claim
        if len(one.refs) > 1:
            for ref in one.refs:
                yield passage(docs[ref]), one.claim
                yield premises(without(one.refs, ref), docs), one.claim


def score(
    found: Sequence[Statement], docs: Sequence[Mapping[str, Any]], entails: Entails
) -> RowScore | None:
    """Citation scores of one output; None if it states nothing.

    A reference earns credit if it alone entails the claim, or if the others do not without it.
    """
    if not found:
        return None
    supported, credit, cited = 0, 0, 0
    for one in found:
        if one.refs is None:
            continue
        cited += len(one.refs)
        joint = entails(premises(one.refs, docs), one.claim)
        supported += joint
        if not joint or len(one.refs) == 1:
            credit += joint
            continue
        for ref in one.refs:
            alone = entails(passage(docs[ref]), one.claim)
            credit += alone or not entails(premises(without(one.refs, ref), docs), one.claim)
    return RowScore(supported / len(found), credit / cited if cited else 0.0)
