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
from tests.claims_helmet import EQUAL_TASKS, EQUAL_TASKS_32K
from tests.claims_tables import LENGTHS, QWEN, README, K, at, page, table
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


TaskScores = dict[tuple[str, str], dict[str, float]]
CATEGORIES = {"RAG": "kilt", "ICL": "icl", "Re-rank": "msmarco", "all": ""}


def of_tasks(store: str) -> TaskScores:
    """Scores by method, task and prompt."""
    return {
        (cell.info.method["label"], cell.info.task): {
            one.uid: one.score for one in cell.samples if one.score is not None
        }
        for cell in read_store(ROOT / QWEN / store)[0]
    }


def paired(scored: TaskScores, own: str, rival: str, category: str = "all") -> Recovery:
    """Prompt by prompt over the tasks that both have: of 100 % when both score the same."""
    tasks = sorted(
        {task for name, task in scored if name == own and task.startswith(CATEGORIES[category])}
    )
    cells = [(scored[own, one], scored[rival, one]) for one in tasks if (rival, one) in scored]
    return pooled([[(one[uid], two[uid]) for uid in one if uid in two] for one, two in cells])


def rivals_of_rr_plus(settings: dict[str, tuple[str, str]]) -> list[tuple[str, int]]:
    others = [name for name in settings if name not in ("rr_plus", "rr_plus_fast", "rr, stride 4")]
    return [(name, level) for name in others for level in (0, 1) if settings[name][level]]


def test_what_is_said_of_rr_plus_on_helmets_tasks_at_8k() -> None:
    scored = of_tasks("helmet_calibrated")

    def against(name: str, level: int, category: str) -> Recovery:
        own, rival = EQUAL_TASKS["rr_plus"][level], EQUAL_TASKS[name][level]
        return paired(scored, own, rival, category)

    rivals = rivals_of_rr_plus(EQUAL_TASKS)
    assert len(rivals) == 11
    assert all(against(*rival, one).hi > 100 for rival in rivals for one in CATEGORIES)
    ahead = {rival for rival in rivals if against(*rival, "all").lo > 100}
    few = {(name, level) for name in ("flexprefill", "cosa") for level in (0, 1)}
    assert ahead == few | {("xattention", 1)}
    assert against("rr_plus_fast", 0, "Re-rank").hi < 100
    frame = table(f"{QWEN}/helmet_calibrated/tables/helmet_recovery.csv").set_index(
        ["column", "method"]
    )
    third = {name: frame.loc[("all", one[1]), "recovery_hi"] for name, one in EQUAL_TASKS.items()}
    assert [name for name, high in third.items() if high > 100] == ["rr_plus"]


def test_what_is_said_of_rr_plus_on_helmets_tasks_at_32k() -> None:
    scored = of_tasks("helmet_calibrated_32k")

    def against(name: str, level: int, category: str = "all") -> Recovery:
        own, rival = EQUAL_TASKS_32K["rr_plus"][level], EQUAL_TASKS_32K[name][level]
        return paired(scored, own, rival, category)

    rivals = rivals_of_rr_plus(EQUAL_TASKS_32K)
    ahead = {rival for rival in rivals if against(*rival).lo > 100}
    assert ahead == {(name, 0) for name in ("xattention", "cosa", "flexprefill")}
    behind = {
        (rival, one)
        for rival in rivals
        for one in ("RAG", "ICL", "all")
        if against(*rival, one).hi < 100
    }
    assert behind == {(("rr", 1), "ICL"), (("rr", 1), "all")}
    text = "by 8 % (1–14) over all tasks and 10 % (2–20) in ICL"
    shown = [
        f"{100 - one.value:.0f} % ({100 - one.hi:.0f}–{100 - one.lo:.0f})"
        for one in (against("rr", 1), against("rr", 1, "ICL"))
    ]
    assert text == f"by {shown[0]} over all tasks and {shown[1]} in ICL"
    assert text in page(f"{QWEN}/README.md")


def test_what_is_said_of_rr_at_stride_4() -> None:
    """As many products as ``rr_plus``: level at 20 and 35 %, behind at 10 %."""
    frame = table(f"{QWEN}/beyond/tables/equal_density.csv").set_index("method")
    own, other = frame.loc["rr_plus"], frame.loc["rr(stride=4)"]
    assert own["at 10 % lo"] > other["at 10 %"] and own["at 10 %"] - other["at 10 %"] < 6
    assert all(own[f"at {n} % lo"] < other[f"at {n} %"] < own[f"at {n} % hi"] for n in (20, 35))


def test_what_is_said_of_samples_decoded_together() -> None:
    """The first group of a cell captures, so its decoding is left out of the rate."""
    rates, answers = [], []
    for store in ("decode_graph", "decode_together"):
        cells = [cell.samples for cell in read_store(ROOT / QWEN / store)[0]]
        every = [one for samples in cells for one in samples]
        later = [one.decode_s for samples in cells for one in samples[8:]]
        prefill = sum(one.prefill_s for one in every) / len(every)
        rates.append(60 / (prefill + sum(later) / len(later)))
        answers.append({(one.task, one.uid): (one.output, one.score) for one in every})
    one, other = answers
    assert one.keys() == other.keys()
    equal = sum(one[key][0] == other[key][0] for key in one)
    assert all(one[key][1] == other[key][1] for key in one)
    text = page(f"{QWEN}/README.md")
    assert f"{rates[1]:.0f} samples a minute where one after the other makes {rates[0]:.0f}" in text
    assert f"{equal} of {len(one)} answers are equal, all scores" in text
