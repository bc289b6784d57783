"""Which part of an output counts, per dataset."""

import json

import pytest

from rr_bench.suite import DATASETS
from rr_bench.tasks.scoring import all_metrics, process_results


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
    assert process_results(doc(dataset, golds, lead_in), [output]) == {"score": score}


def test_rerank_scores_the_whole_chain_over_blank_lines():
    row = doc("msmarco_rerank", ["1"], "Ranking:", qrels={"1": 1, "2": 0}, passages=2)
    assert process_results(row, [" 1 > \n\n2"]) == {"score": 1.0}
    assert process_results(row, [" 2 > 1"])["score"] == pytest.approx(0.63093)


def test_alce_scores_correctness_alone():
    row = doc("alce_asqa", [], answers=[["Lloró"], ["Mawsynram"]])
    assert process_results(row, ["Lloró [1][2]."]) == {"score": 0.5}
    row = doc("alce_qampari", [], answers=[["a1"], ["a2", "b2"]])
    assert process_results(row, ["a1 [1], b2 [2]."]) == {"score": 1.0}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_tables_metric_is_among_the_scorers(name):
    if DATASETS[name].category == "recall":
        return
    row = doc(name, ["x", "A. x"], answers=[["x"]], qrels={"1": 1}, passages=30)
    assert DATASETS[name].metric in all_metrics(row, "x")
