"""Metric vectors of HELMET's own functions."""

import pytest

from rr_bench.tasks.metrics.answers import norm, parse, ruler_recall, substring_exact_match


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick-Brown fox, a U.S. state!", "quickbrown fox us state"),
        ("An apple's core", "apples core"),
        ("A", ""),
        ("$1,000.50", "100050"),
        ("naïve café — “quoted”", "naïve café — “quoted”"),
    ],
)
def test_norm(text, expected):
    assert norm(text) == expected


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("Answer: Paris\nmore", "Answer:", "Paris"),
        ("Answer:Answer: Paris", "Answer:", "Paris"),
        ("foo Answer: bar\nAnswer: baz", "Answer:", "bar"),
        ("no prefix here\nsecond", "Answer:", "no prefix here"),
        ("\nsecond line", "Answer:", ""),
        ("Answer:\nParis", "Answer:", ""),
        ("answer : x", "Answer:", "answer : x"),
        ("The answer: 42. ok", "Answer:", "42. ok"),
        ("label: label: 3", "label:", "3"),
        ("label: 12 label: 13", "label:", "12 label: 13"),
    ],
)
def test_parse(text, prefix, expected):
    assert parse(text, prefix) == expected


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        ("Answer: Barack Obama was president", ["Barack Obama", "Obama"], 1.0),
        ("yes it is", ["yes"], 1.0),
        ("the cat sat on the mat", ["a cat on mat"], 0.0),
        ("", ["A", "A. x"], 1.0),
        ("B. dog", ["B"], 1.0),
        ("Corresponding value: 1234abcd-xyz", ["1234ABCD-xyz"], 1.0),
        ("Corresponding value: 1234abcd", ["1234abce"], 0.0),
    ],
)
def test_substring_exact_match(prediction, golds, expected):
    assert substring_exact_match(prediction, golds) == expected
    assert substring_exact_match(prediction, golds, "corresponding value:") == expected


def test_ruler_recall_is_the_share_found_and_ignores_case():
    assert ruler_recall("are 1111111, 2222222 and AB", ["1111111", "2222222", "ab", "4"]) == 0.75
    assert ruler_recall("", ["1"]) == 0.0


def test_no_gold_is_an_error():
    with pytest.raises(ValueError, match="golds"):
        ruler_recall("x", [])
    with pytest.raises(ValueError, match="golds"):
        substring_exact_match("x", [])
