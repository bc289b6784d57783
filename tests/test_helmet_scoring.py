"""Which part of an output counts, per dataset."""

import json

import pytest

from rr_bench import TASKS
from rr_bench.tasks import json_kv, niah
from rr_bench.tasks.definitions import read_definition
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.metrics import after_thoughts
from rr_bench.tasks.scoring import metric_names, process_results


def doc(dataset, golds, lead_in="", **extra):
    return {
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
    if DATASETS[name].category == "recall":
        return
    row = doc(name, ["x", "A. x"], answers=[["x"]], qrels={"1": 1}, passages=1000)
    found = process_results(row, ["x"])
    assert found["score"] == found[DATASETS[name].metric]
    assert set(found) == set(metric_names(DATASETS[name]))
    task = read_definition(TASKS / "helmet" / f"{name}.yaml")
    assert [entry["metric"] for entry in task["metric_list"]] == metric_names(DATASETS[name])


def test_thoughts_are_dropped_before_the_lead_in_is_added():
    thought = "It is Paris. </think> no: </think>\n\nRome\nAnswer: Paris"
    assert after_thoughts(thought) == "Rome\nAnswer: Paris"
    assert after_thoughts(" as it is ") == " as it is "
    row = doc("icl_nlu", ["12"], "label:")
    assert process_results(row, ["label: 3</think> 12"])["score"] == 1
    assert process_results(row, [" 12</think> 3"])["score"] == 0
    recall = {"golds": json.dumps(["7"]), "lead_in": "is"}
    for task in (json_kv, niah):
        assert task.process_results(recall, ["7</think> 8"]) == {"score": 0.0}
        assert task.process_results(recall, ["8</think> 7"]) == {"score": 1.0}
