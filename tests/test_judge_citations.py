"""Citation scores on a made-up entailment and a real tiny T5."""

from __future__ import annotations

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from rr_bench.judge import autoais
from rr_bench.judge.autoais import RowScore
from rr_bench.judge.cache import ReplyCache
from rr_bench.judge.nli import Entailment
from rr_bench.tasks.datasets.niah import split_sentences
from tests.tiny import tiny_tokenizer

DOCS = [{"title": f"T{i}", "text": f"x{i}"} for i in range(6)]


def statements(text, name="alce_asqa", count=6):
    return autoais.statements(name, text, "Who?", count, split_sentences)


def entails_if(*needed):
    """The claim holds if the premise has one of these sets of documents."""
    return lambda premise, claim: any(all(f"x{i}" in premise for i in one) for one in needed)


def test_statements_of_sentences_and_list_items():
    made = statements("A cat sat [1][3]. No. It left\n\n[7]. Well then [1][2][3][4].")
    assert [(one.claim, one.refs) for one in made] == [
        ("A cat sat.", (0, 2)),
        ("It left.", None),  # there is no document 7
        ("Well then.", (0, 1, 2)),
    ]
    made = statements("Ann [1], Bob,  Eve [0]. ", "alce_qampari")
    assert [(one.claim, one.refs) for one in made] == [
        ("Who? Ann", (0,)),
        ("Who? Bob", None),
        ("Who? Eve", (-1,)),
    ]
    assert statements("No.") == statements(" No.  ") == []
    assert statements(" ", "alce_qampari") == [autoais.Statement("Who?", None)]
    assert autoais.score(statements("", "alce_qampari"), DOCS, entails_if([0])) == RowScore(0, 0)


@pytest.mark.parametrize(
    ("text", "entails", "recall", "precision"),
    [
        ("A cat sat [1][2].", entails_if([0, 1]), 1, 1),  # neither alone, both needed
        ("A cat sat [1][2].", entails_if([0]), 1, 0.5),  # the second adds nothing
        ("A cat sat [1][2].", entails_if([0], [1]), 1, 1),
        ("A cat sat [1][2].", entails_if([5]), 0, 0),
        ("A cat sat [2].", entails_if([1]), 1, 1),
        ("A cat sat [1]. A dog ran.", entails_if([0]), 0.5, 1),
        ("A cat sat [1][9].", entails_if([0]), 0, 0),
        ("A cat sat.", entails_if([0]), 0, 0),
    ],
)
def test_citation_scores(text, entails, recall, precision):
    found = autoais.score(statements(text), DOCS, entails)
    assert (found.recall, found.precision) == (recall, precision)
    asked = set()
    autoais.score(statements(text), DOCS, lambda p, c: bool(asked.add((p, c))) or entails(p, c))
    assert asked <= set(autoais.pairs(statements(text), DOCS))


def test_an_output_that_states_nothing_has_no_score():
    assert autoais.score([], DOCS, entails_if([0])) is None


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=1024, decoder_start_token_id=2, pad_token_id=2, **shape)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer(folder, bos=False)
    return str(folder)


def test_entailment_is_batched_and_cached(tmp_path, t5, monkeypatch):
    cache = ReplyCache(tmp_path / "nli.jsonl", "nli a")
    judge = Entailment(t5, cache, batch_size=2, device="cpu")
    pairs = [("p", "c"), ("longer premise", "c"), ("q", "c"), ("p", "c")]
    judge.answer(pairs)
    assert len((tmp_path / "nli.jsonl").read_text().splitlines()) == 3
    again = Entailment("/nowhere", ReplyCache(tmp_path / "nli.jsonl", "nli a"))
    again.answer(pairs)  # nothing is loaded for known pairs
    assert [again.entails(*pair) for pair in pairs] == [judge.entails(*pair) for pair in pairs]
    other = ReplyCache(tmp_path / "nli.jsonl", "nli b")
    assert other.get("premise: p hypothesis: c") is None
    other.put("premise: p hypothesis: c", "1")
    other.put("premise: q hypothesis: c", "10")
    known = Entailment("/nowhere", other)
    assert known.entails("p", "c") and not known.entails("q", "c")
    with pytest.raises(ValueError, match="--nli=/nowhere"):
        known.entails("new", "c")
