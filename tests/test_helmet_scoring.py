"""Which part of an output counts, per dataset."""

import json

import pytest

from rr_bench import TASKS
from rr_bench.tasks.definitions import read_definition
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics.answers import after_thoughts
from rr_bench.tasks.task import process_results


def doc(dataset, golds, lead_in="", thinking=False, **extra):
    return {
        "thinking": thinking,
        "dataset": dataset,
        "golds": json.dumps(golds),
        "extra": json.dumps(extra),
        "lead_in": lead_in,
    }


@pytest.mark.parametrize(
    ("dataset", "golds", "lead_in", "output", "score"),
    [
        ("kilt_nq", ["Paris"], "Answer:", " it is paris, France\nnext", 1),
        ("kilt_nq", ["Paris"], "Answer:", " London\nParis", 1),  # the raw output counts as well
        ("kilt_nq", ["Paris"], "Answer:", " London", 0),
        ("icl_nlu", ["12"], "label:", " 12\ntext", 1),
        ("icl_nlu", ["12"], "label:", " label: 12", 1),
        ("icl_nlu", ["12"], "label:", " 13\nlabel: 12", 0),  # only the first line after the prefix
        ("icl_nlu", ["12"], "label:", " 12 label: 13", 0),
        ("infbench_choice", ["B", "B. a dog"], "", "B", 1),
        ("infbench_choice", ["B", "B. a dog"], "", "Answer: B", 1),
        ("infbench_choice", ["B", "B. a dog"], "", "I say b. A DOG then", 1),
        ("infbench_choice", ["B", "B. a dog"], "", "B. a", 1),  # the article is normalised away
        ("infbench_choice", ["B", "B. The statue of X"], "", "B. The statue of", 0),
        ("infbench_choice", ["A", "A. a cat"], "", "", 1),
        ("infbench_choice", ["A", "A. a cat"], "", "The", 1),
        ("infbench_choice", ["A", "A. a cat"], "", "C", 0),
    ],
)
def test_score(dataset, golds, lead_in, output, score):
    assert process_results(doc(dataset, golds, lead_in), [output])["score"] == score


def test_rerank_scores_the_whole_chain_over_blank_lines():
    row = doc("msmarco_rerank", ["1"], "Ranking:", qrels={"1": 1, "2": 0}, passages=2)
    assert process_results(row, [" 1 > \n\n2"])["score"] == 1.0
    assert process_results(row, [" 2 > 1"])["score"] == pytest.approx(0.63093)


def test_alce_scores_correctness_alone():
    row = doc("alce_asqa", [], answers=[["Lloró"], ["Mawsynram"]])
    assert process_results(row, ["Lloró [1][2]."]) == {"score": 0.5, "str_em": 0.5, "str_hit": 0}
    assert process_results(row, ["Mawsynram, Lloró"])["str_hit"] == 1
    row = doc("alce_qampari", [], answers=[["a1"], ["a2", "b2"]])
    assert process_results(row, ["a1 [1], b2 [2]."])["score"] == 1.0


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_tasks_definition_lists_what_its_scorer_returns(name):
    row = doc(name, ["x", "A. x"], answers=[["x"]], qrels={"1": 1}, passages=1000)
    found = process_results(row, ["x"])
    assert found["score"] == found[DATASETS[name].metric]
    (path,) = TASKS.rglob(f"{name}.yaml")
    task = read_definition(path)
    assert [entry["metric"] for entry in task["metric_list"]] == list(found)
    assert task["metadata"]["dataset"] == name and task["metadata"]["samples"] == DATASETS[name].rows


def test_thoughts_are_dropped_only_where_the_setting_says_so_and_the_lead_in_with_them():
    thought = "It is Paris. </think> no: </think>\n\nRome\nAnswer: Paris"
    assert after_thoughts(thought) == "Rome\nAnswer: Paris"
    assert after_thoughts(" as it is ") == " as it is "
    for thinking in (False, True):
        row = doc("icl_nlu", ["12"], "label:", thinking=thinking)
        assert process_results(row, ["label: 3</think> 12"])["score"] == thinking
        assert process_results(row, [" 12"])["score"] == 1  # no thoughts: the lead-in stays
        row = doc("alce_qampari", [], "Answer:", thinking=thinking, answers=[["x"]])
        # Without thoughts the lead-in stands in the first item, and hides it.
        assert process_results(row, ["<think>b</think> x"])["score"] == thinking
        recall = doc("niah_mk_2", ["7"], "is", thinking=thinking)
        assert process_results(recall, ["7</think> 8"])["score"] == (not thinking)


def test_a_books_summary_is_parsed_after_answer_as_helmet_does():
    """A right summary behind ``Summary:`` keeps that word, and loses some of its ROUGE."""
    summary = "the cat sat on the mat and slept for eight hours"
    for name, score in (("infbench_sum", 22 / 23), ("multi_lexsum", 1)):
        row = doc(name, [summary], "Summary:")
        assert process_results(row, [f" {summary}"])["score"] == pytest.approx(score)


def test_multiple_choice_looks_for_the_letter_with_its_text_only():
    row = doc("infbench_choice", ["B", "B. a dog"])
    for output, substring, exact in (
        ("B", 0, 1),
        ("A bear, perhaps", 0, 0),
        ("I say b. A DOG then", 1, 1),
    ):
        found = process_results(row, [output])
        assert (found["substring_exact_match"], found["exact_match"]) == (substring, exact)
