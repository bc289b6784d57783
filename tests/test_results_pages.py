"""The numbers in README and in the pages of results/ are those of the committed tables.

In the parts of README that tell results, no number stands outside the claims of
``tests/results_claims.py``: a new number needs a new claim, a stale one fails with what the records
say.
"""

from __future__ import annotations

import re

import pytest

from rr_bench.report.recovery import Recovery, pooled
from rr_bench.store.cells import SHORT
from rr_bench.store.reading import read_store
from tests.claims_pages import EQUAL_TASKS
from tests.claims_tables import LENGTHS, QWEN, README, K, at, page
from tests.results_claims import CLAIMS, CONSTANTS
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


def test_what_is_said_of_rr_plus_on_helmets_tasks() -> None:
    """Paired prompt by prompt over tasks: of 100 % when both score the same."""
    scored = {
        (cell.info.method["label"], cell.info.task): {
            one.uid: one.score for one in cell.samples if one.score is not None
        }
        for cell in read_store(ROOT / QWEN / "helmet_calibrated")[0]
    }
    tasks = sorted({task for _, task in scored})
    groups = [
        [task for task in tasks if task.startswith(start)] for start in ("kilt", "icl", "msmarco", "")
    ]

    def paired(rival: str, level: int, own: list[str]) -> Recovery:
        names = EQUAL_TASKS["rr_plus"][level], EQUAL_TASKS[rival][level]
        cells = [[scored[name, task] for name in names] for task in own]
        return pooled([[(one[uid], two[uid]) for uid in one if uid in two] for one, two in cells])

    rivals = [
        (name, level)
        for name, settings in EQUAL_TASKS.items()
        for level in (0, 1)
        if settings[level] and name not in ("rr_plus", "rr_plus_fast")
    ]
    assert len(rivals) == 8
    assert all(paired(*rival, own).hi > 100 for rival in rivals for own in groups)
    ahead = {rival for rival in rivals if paired(*rival, tasks).lo > 100}
    assert ahead == {("flexprefill", 0), ("cosa", 0), ("xattention", 1)}
    assert paired("rr_plus_fast", 0, groups[2]).hi < 100
