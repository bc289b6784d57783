"""The numbers in README and in the pages of results/ are those of the committed tables.

In the parts of README that tell results, no number stands outside the claims of
``tests/results_claims.py``: a new number needs a new claim, a stale one fails with what the records
say.
"""

from __future__ import annotations

import re

import pytest

from rr_bench.report.recovery import pooled
from rr_bench.store.cells import SHORT
from rr_bench.store.reading import read_store
from tests.results_claims import CLAIMS, CONSTANTS, LENGTHS, QWEN, README, K, at, page
from tests.source import ROOT


@pytest.mark.parametrize("claims", CLAIMS)
def test_pages_say_what_the_records_say(claims: str) -> None:
    name, made = CLAIMS[claims]
    stale = [text for text in made() if text not in page(name)]
    assert not stale, "\n".join([f"{name} is stale; the committed tables say:", *stale])


def test_no_number_of_a_result_stands_in_readme_without_a_claim() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    parts = text.split("\n## ")
    told = " ".join(parts[:1] + [part for part in parts if part.startswith("How fast is it?")])
    told = re.sub(r"```.*?```|!?\[[^]]*\]\([^)]*\)", " ", told, flags=re.DOTALL)
    told = " ".join(told.split())
    for name, made in CLAIMS.values():
        for claim in made() if name == README else ():
            told = told.replace(claim, " ")
    told = re.sub(r"`[^`]*`", " ", CONSTANTS.sub(" ", told))
    left = re.findall(r".{0,40}\d.{0,40}", told)
    assert not left, "\n".join(["numbers that no claim recomputes:", *left])


def test_what_readme_says_of_xattention_at_equal_density() -> None:
    """Paired on the same prompts: of 100 % when both score the same."""
    scored = {
        cell.info.key[:SHORT]: {one.uid: one.score for one in cell.samples if one.score is not None}
        for cell in read_store(ROOT / QWEN / "equal_density")[0]
    }
    found = {}
    for level, n in ((level, n) for level in (20, 35, 50) for n in LENGTHS[1:]):
        own, other = (scored[at(level, line, n)["cell"]] for line in ("rr", "xattention"))
        pairs = [(own[uid], other[uid]) for uid in own]
        found[level, n] = pooled([pairs])
    assert all(found[level, n].lo < 100 < found[level, n].hi for level in (35, 50) for n in LENGTHS[1:])
    assert found[20, 8 * K].hi < 100 < found[20, 32 * K].lo
