"""Which of the options A to D an output chooses: the two parsers that Video-MME is scored with."""

from __future__ import annotations

import re
from collections.abc import Callable

LETTERS = "ABCD"

_PHRASES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("Answer:", "Option:", "The correct answer", "The correct option"),
)
"""What the official scorer deletes, in its order. Two further entries of its list are four phrases run
together for want of commas, and match nothing."""

_START, _END, _ANNOUNCED, _BRACKETS, _ANYWHERE = 10, 9, 7, 6, 0
_FOLLOWED = {".": 5, ":": 4, ")": 3, " ": 2}
_ANNOUNCEMENT = re.compile(r"\b(?:answer|option|choice)(?:\s+is|\s*:)\s*\(?$", re.IGNORECASE)


def official_letter(output: str) -> str | None:
    """The first capital A to D behind the usual phrases, wherever it stands; None if there is none.

    Of Video-MME's own scorer (thanku-all/parse_answer afd52cf), and VLMEvalKit's. An answer in words
    is read by its first such capital, so that "Because ..., it is C" is B.
    """
    text = output.strip()
    for phrase in _PHRASES:
        text = text.replace(phrase, "")
    return next((sign for sign in text if sign in LETTERS), None)


def lmms_letter(output: str) -> str | None:
    """The capital A to D that looks most like an answer, the later one of equals; None without any.

    By lmms-eval's ranking (its commit 9ca4445): alone at the start, alone at the end, announced, in
    brackets, followed by a full stop, a colon, a bracket, a space; anywhere.
    """
    text = output.strip()
    found = [(_rank(text, place), place) for place, sign in enumerate(text) if sign in LETTERS]
    return text[max(found)[1]] if found else None


def _rank(text: str, place: int) -> int:
    """How much the letter at a place looks like an answer."""
    before, after = text[:place], text[place + 1 :]
    if not before and not after[:1].isalpha():
        return _START
    if not after and not before[-1:].isalpha():
        return _END
    if _ANNOUNCEMENT.search(before):
        return _ANNOUNCED
    if before.endswith("(") and after.startswith(")"):
        return _BRACKETS
    return _FOLLOWED.get(after[:1], _ANYWHERE)


PARSERS: dict[str, Callable[[str], str | None]] = {"official": official_letter, "lmms": lmms_letter}
"""Output to letter, by name."""
