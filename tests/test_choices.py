"""Which option an output chooses; the vectors are the originals' own results."""

from __future__ import annotations

import pytest

from rr_bench.tasks.metrics.choices import PARSERS, lmms_letter, official_letter

SAME = {
    "A": "A",
    "B.": "B",
    "(C)": "C",
    "**B**": "B",
    "D. 13": "D",
    "Answer: C. Jade.": "C",
    "The best answer is: D": "D",
    "The answer is (A)": "A",
    "The correct option is A": "A",
    "The best option is C": "C",
    "Option: B": "B",
    "A or B": "A",
    "Bananas": "B",
    "A cat is in the video, so D": "A",
    "B\nExplanation: A is wrong": "B",
    "All of them appear in this clip": "A",
    "Because the man runs, the answer is B": "B",
    "b": None,
    "(b)": None,
    "answer: d": None,
    "None of the above": None,
    "E": None,
    "": None,
}
DIFFERENT = {  # official, lmms
    "Best answer: D": ("B", "D"),
    "Answer is D": ("A", "D"),
    "Based on the video, C": ("B", "C"),
    "CD player": ("C", "D"),
    "I choose D because A is wrong": ("D", "A"),
    "The answer is not A, it is C.": ("A", "C"),
}


@pytest.mark.parametrize(("output", "letter"), SAME.items())
@pytest.mark.parametrize("parser", PARSERS)
def test_both_parsers_read_it_alike(parser, output, letter):
    assert PARSERS[parser](output) == letter
    assert PARSERS[parser](f" \n{output}\n ") == letter


@pytest.mark.parametrize(("output", "letters"), DIFFERENT.items())
def test_the_parsers_differ(output, letters):
    assert (official_letter(output), lmms_letter(output)) == letters
