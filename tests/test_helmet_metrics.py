"""Vectors of HELMET's and ALCE's own metric functions."""

import pytest

from rr_bench.tasks.metrics.answers import best_metrics, qa_metrics
from rr_bench.tasks.metrics.citations import (
    clean_output,
    listed,
    qampari_metrics,
    references,
    remove_citations,
    str_em,
)
from rr_bench.tasks.metrics.ranking import ndcg, parse_rankings, ranking_metrics


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        (
            "Answer: Barack Obama was president",
            ["Barack Obama", "Obama"],
            {
                "exact_match": 0,
                "f1": 0.571429,
                "substring_exact_match": 1,
                "rougeL_f1": 0.571429,
                "rougeL_recall": 1,
            },
        ),
        ("yes it is", ["yes"], {"f1": 0, "substring_exact_match": 1, "rougeL_f1": 0.5}),
        (
            "the cat sat on the mat",
            ["a cat on mat"],
            {"f1": 0.857143, "substring_exact_match": 0, "rougeL_f1": 0.6, "rougeL_recall": 0.75},
        ),
        ("", ["A", "A. x"], {"exact_match": 1, "substring_exact_match": 1, "f1": 0}),
        ("B. dog", ["B"], {"exact_match": 0, "substring_exact_match": 1, "f1": 0.666667}),
    ],
)
def test_qa_metrics(prediction, golds, expected):
    found = qa_metrics(prediction, golds)
    assert {name: round(found[name], 6) for name in expected} == expected


def test_the_better_of_raw_and_parsed_counts():
    found = best_metrics("Answer: Paris\nQuestion: and then?", ["Paris"], "Answer:")
    assert found["exact_match"] == found["rougeL_f1"] == 1
    assert best_metrics("x", ["Paris"], "Answer:")["exact_match"] == 0


def test_no_gold_is_an_error():
    with pytest.raises(ValueError, match="golds"):
        qa_metrics("x", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ranking: ID3 > ID1 > ID2", {"3": 3, "1": 2, "2": 1}),
        ("Ranking: [ID: 7] > [ID: 12] > 7", {"7": 3, "12": 2}),
        ("3 > 1\n4 > 5 > 6 > 2", {"4": 4, "5": 3, "6": 2, "2": 1}),
        ("12, 13, 14", {"12": 1}),
        ("ID10>ID2 > ID10 > ID5 >", {"10": 4, "2": 3, "5": 1}),
        ("1. 34 > 2. 56", {"34": 2, "2": 1}),
        ("Ranking: 5 > 4 > \n\n6", {"5": 3, "4": 2, "6": 1}),
        ("no digits", {"no digits": 1}),
    ],
)
def test_parse_rankings(text, expected):
    assert parse_rankings(text) == expected


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["1", "2", "4"], {1: 1.0, 5: 1.0, 10: 1.0}),
        (["4", "2", "1"], {1: 0.33333, 10: 0.79}),
        (["99", "1"], {1: 0.0, 10: 0.39749}),
        (["3"], {1: 0.0, 10: 0.0}),
        (["77"], {10: 0.0}),
    ],
)
def test_ndcg(order, expected):
    qrels = {"1": 3, "2": 2, "3": 0, "4": 1}
    scores = {one: len(order) - i for i, one in enumerate(order)}
    for cutoff, value in expected.items():
        assert ndcg(scores, qrels, cutoff) == pytest.approx(value, abs=6e-6)


def test_ndcg_without_relevant_passages_is_zero():
    assert ndcg({"1": 1}, {"1": 0}, 10) == 0.0
    found = ranking_metrics("Ranking: 2 > 1", {"1": 1, "2": 0}, 20)
    assert found["NDCG@10"] == pytest.approx(0.63093) and found["num_preds"] == 2
    assert "NDCG@50" not in found


def test_a_ranking_as_trec_eval_grades_it():
    """Two of three relevant passages at ranks 2 and 4, an unknown id first."""
    qrels = {"1": 3, "2": 0, "3": 1, "4": 2}
    found = ranking_metrics("Ranking: 99 > 1 > 2 > 3", qrels, 10)
    expected = {"MRR": 1 / 2, "MAP@1": 0, "MAP@5": (1 / 2 + 2 / 4) / 3, "Recall@1": 0}
    expected |= {"Recall@5": 2 / 3, "P@1": 0, "P@5": 2 / 5, "P@10": 2 / 10, "num_preds": 4}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=6e-6)
    third = ranking_metrics("Ranking: 2 > 9 > 1", {"1": 1, "2": 0}, 10)
    assert third["MRR"] == third["MAP@5"] == 0.33333  # as many decimals as HELMET keeps
    none = ranking_metrics("Ranking: 2", {"1": 0, "2": 0}, 10)
    assert none["MRR"] == none["MAP@10"] == none["Recall@10"] == none["P@10"] == 0


def test_citations_are_removed():
    assert remove_citations("Foo bar [1][2]. Baz [12] qux.") == "Foo bar. Baz qux."
    assert remove_citations("A|B | c [3]") == "A|B c"
    assert remove_citations("x[4] y] z") == "x y z"
    assert references("So [3][1] it is [0]") == [2, 0, -1]
    assert clean_output("a\n\n\nb<|im_end|>") == "a b"


def test_str_em_is_the_share_of_parts():
    parts = [["Lloró", "Lloro"], ["Mawsynram"], ["12 July"]]
    assert str_em("It is Lloro [1],\nor mawsynram. [2]", parts) == pytest.approx(2 / 3)
    assert str_em("x", []) == 0.0


def test_qampari_lists():
    assert listed("a [1], b [2]. ,") == ["a [1]", " b [2]. "]
    golds = [["Marazan"], ["In the Wet", "Wet"], *([f"g{i}"] for i in range(6))]
    found = qampari_metrics("Marazan [1], the wet [2], nothing, .", golds)
    assert found["qampari_rec"] == pytest.approx(2 / 8)
    assert found["qampari_rec_top5"] == pytest.approx(2 / 5)
    assert found["qampari_prec"] == pytest.approx(2 / 3)
    assert qampari_metrics("", golds)["qampari_rec_top5"] == 0
    two = qampari_metrics("Marazan, Wet", golds[:2])
    assert two["qampari_rec_top5"] == two["qampari_f1"] == 1
