"""Words of the questions about flash cards: what the task asks, and what the probe is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from rr_bench.tasks.synthetic.cards import Card

LETTERS = "ABCD"
ASK, MARK, OPEN, CHOOSE = "Digit", "?", "Say", "Answer"


def choice_question(card: Card, options: Sequence[int]) -> str:
    """A question with four options, up to where its letter follows after a space."""
    listed = " ".join(f"{letter} {digit}" for letter, digit in zip(LETTERS, options, strict=True))
    return f"{ASK} {card.words} {MARK} {listed} {CHOOSE}"


def open_question(card: Card) -> str:
    """A question without options, up to where its digit follows after a space."""
    return f"{ASK} {card.words} {MARK} {OPEN}"
