"""HELMET's first ICL rows on the complete sets, which have to be downloaded.

``HELMET_DIR=<folder of python -m rr_bench.download> pytest tests/test_helmet_official.py``
"""

import json
import os
import re
from pathlib import Path

import pytest

from rr_bench.tasks.helmet_table import DATASETS
from tests import helmet_layout as layout

FOLDER = os.environ.get("HELMET_DIR", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="needs HELMET_DIR, a folder with HELMET's hub sets")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return layout.word_tokenizer_dir(tmp_path_factory.mktemp("words"), chat=False)


def first_row(name, shots, tokenizer):
    """Question, label and (text, shown integer) of each demonstration of HELMET's first row."""
    sizes = DATASETS[name].knobs
    length = next(tokens for tokens, knob in sizes.items() if knob == shots)
    root = Path(FOLDER)
    (row,) = layout.builder_of(name)(
        length=length, samples=1, tokenizer=tokenizer, helmet_dir=str(root), seed=42
    )
    assert not row["truncated"]
    context, question = re.fullmatch(
        r".*nothing else\. \n\n(.*)\n\n([^\n]*)\nlabel:", row["prompt"], re.DOTALL
    ).groups()
    demos = re.findall(r"(.*?)\nlabel: (\d+)(?:\n\n|\Z)", context, re.DOTALL)
    assert len(demos) == shots
    return question, json.loads(row["extra"])["label"], [(text, int(n)) for text, n in demos]


DENVER = "How far is it from Denver to Aspen ?"


@pytest.mark.parametrize(
    ("name", "shots", "first", "last"),
    [
        (
            "icl_trec_coarse",
            400,
            [
                ("How much did Alaska cost when bought from Russia ?", 3),
                ("How do plants make food ?", 2),
                ("What is the full name of the PLO ?", 5),
                ("Where are all European and American eels born ?", 1),
            ],
            ("What state produces the best lobster to eat ?", 1),
        ),
        ("icl_trec_coarse", 6600, [("How do plants make food ?", 2)], None),
        (
            "icl_trec_fine",
            400,
            [("What was the sister ship of the Olympic ?", 5)],
            ("What is a golf ball made of ?", 19),
        ),
        ("icl_trec_fine", 6400, [("What are the two languages of Malta ?", 3)], None),
    ],
)
def test_trec(name, shots, first, last, tokenizer):
    question, _, demos = first_row(name, shots, tokenizer)
    assert question == DENVER and demos[: len(first)] == first
    assert last is None or demos[-1] == last
    if shots == 6600:
        text, shown = demos[1]
        assert text.startswith("What are the titles of some R-Rated Sony Play") and shown == 4


@pytest.mark.parametrize(
    ("name", "shots", "asked", "label", "expected"),
    [
        (
            "icl_banking77",
            360,
            "I am having difficulties to verify my identity.",
            68,
            {
                0: ("Three months ago I bought a new house for my cat, fluffy.", 11),
                1: ("Where can I withdraw money from?", 22),
                -1: ("How to receive the actual card", 73),
            },
        ),
        (
            "icl_clinic150",
            440,
            "should i go to okinawa, does it require an international visa",
            59,
            {
                0: ("i want you to your volume", 95),
                1: ("whats the status of my south west flight", 65),
                -1: ("is there someone else you work for", 88),
            },
        ),
    ],
)
def test_banking_and_clinic(name, shots, asked, label, expected, tokenizer):
    question, found, demos = first_row(name, shots, tokenizer)
    assert (question, found) == (asked, label)
    for place, (text, shown) in expected.items():
        assert demos[place][0].startswith(text) and demos[place][1] == shown
