"""What happens to HELMET's rows: truncation, lost gold, floors, odd data, subsets."""

import json

import pandas as pd
import pytest

from rr_bench.tasks.datasets import icl, kilt
from rr_bench.tasks.files.documents import OMITTED, Cutter
from rr_bench.tasks.files.fields import Record
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import DATASETS, LENGTHS, document_tokens
from rr_bench.tasks.prompts.render import Parts, finish
from rr_bench.tasks.prompts.tokens import count_tokens, load_tokenizer
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.sources import rows_of
from tests import helmet_layout as layout
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    return layout.tokenizers(tmp_path_factory.mktemp("tokenizers"))


def metadata(root, tok, **more):
    given = {"length": 8192, "samples": 600, "tokenizer": tok, "helmet_dir": str(root)}
    return given | {"document_floor": 0} | more


def test_knobs_and_document_lengths():
    lengths = [8192, 16384, 32768, 65536, 131072]
    assert [document_tokens("narrativeqa", n) for n in lengths] == [7892, 16084, 32468, 65236, 130772]
    assert [document_tokens("infbench_qa", n) for n in lengths] == [7982, 16174, 32558, 65326, 130862]
    assert [document_tokens("infbench_sum", n) for n in lengths] == [6792, 14984, 31368, 64136, 129672]
    assert [document_tokens("multi_lexsum", n) for n in lengths] == [7492, 15684, 32068, 64836, 130372]
    assert list(DATASETS["icl_trec_fine"].knobs.values()) == [200, 400, 800, 1600, 3200, 6400]
    for dataset in DATASETS.values():
        if dataset.pattern or dataset.category == "icl":
            assert list(dataset.knobs) == list(LENGTHS.values())
    rows = {c: sum(d.rows for d in DATASETS.values() if d.category == c) for c in ("rag", "icl")}
    assert rows == {"rag": 2100, "icl": 2500}


@pytest.mark.parametrize("excess", [0, 1, 50])
@pytest.mark.parametrize("chat", [False, True])
def test_truncation_of_a_rendered_row(toks, excess, chat):
    context = "\n\n".join(f"Document {i} of many, {{x}}." for i in range(60))
    tokenizer = load_tokenizer(tokenizer=toks[chat])
    parts = Parts(
        3, context, lambda text: f"Q?\n{text}", "Answer:", ["g"], survived=lambda c: c == context
    )
    dataset = DATASETS["alce_asqa"]
    whole = finish(dataset, Settings(tokenizer, 8192, 1), parts, Notes())["input_len"]
    notes = Notes()
    length = whole - excess + dataset.generation
    row = finish(dataset, Settings(tokenizer, length, 1), parts, notes)
    kept = tokenizer(context)["input_ids"]
    cut = tokenizer.decode(kept[: len(kept) - excess], skip_special_tokens=True)
    user = f"Q?\n{cut}"
    expected = f"<s>[user 26 Jul 2024]{user}[assistant]" if chat else f"{user}\nAnswer:"
    assert row["prompt"] == expected
    assert (row["removed_tokens"], row["truncated"]) == (excess, excess > 0)
    assert row["input_len"] == count_tokens(tokenizer, row["prompt"], special=not chat)
    lost = notes.as_dict()["gold_lost"]
    assert lost == {"count": int(excess > 0), "uids": [row["uid"]] if excess else []}
    assert json.loads(row["extra"])["gold_survived"] is (excess == 0)
    if chat:
        assert tokenizer(row["prompt"], add_special_tokens=False)["input_ids"][:2].count(0) == 1


def test_an_excess_beyond_the_context_names_the_row(toks):
    parts = Parts(7, "short", lambda text: f"{'long ' * 400}{text}", "A:", ["g"])
    settings = Settings(load_tokenizer(tokenizer=toks[False]), 200, 1)
    with pytest.raises(ValueError, match=r"json_kv, row 7: .*over its budget"):
        finish(DATASETS["json_kv"], settings, parts, Notes())


def test_documents_are_cut_at_the_rule_of_the_specification(tmp_path, toks):
    tiny_tokenizer(tmp_path / "llama2_tokenizer")
    tokenizer = load_tokenizer(tokenizer=toks[False])
    settings = Settings(tokenizer, 8192, 1, data=DataSettings(helmet_dir=str(tmp_path)))
    cutter = Cutter(settings)
    text = "\n".join(f"Line {i} of a story." for i in range(80))
    ids = tokenizer(text)["input_ids"]
    marker = len(tokenizer(OMITTED)["input_ids"])
    assert cutter.cut(text, len(ids)) == text
    for limit in (len(ids) - 1, len(ids) - 50):
        kept = tokenizer.decode(ids[1 : limit - marker + 1])
        assert cutter.cut(text, limit) == kept + OMITTED
    with pytest.raises(ValueError, match="lengths"):
        cutter.cut(text, marker)
    assert cutter.reaches(text, len(ids)) and not cutter.reaches(text, len(ids) + 1)
    with pytest.raises(ValueError, match=r"llama2_tokenizer.*rr_bench\.download"):
        Cutter(Settings(tokenizer, 8192, 1, data=DataSettings(helmet_dir=str(tmp_path / "elsewhere"))))


def stories_of(sizes):
    return [
        {"id": i, "context": "word " * n, "input": "q", "answer": ["a"], "options": []}
        for i, n in enumerate(sizes)
    ]


def test_a_story_under_the_floor_is_counted_and_named(tmp_path, toks):
    tiny_tokenizer(tmp_path / "llama2_tokenizer")
    path = layout.hub_file(tmp_path, "infinitebench", "longbook_qa_eng")
    layout.write_jsonl(path, stories_of([10, 400, 20]))
    notes = Notes()
    given = metadata(tmp_path, toks[False], task="infbench_qa", document_floor=300)
    rows = rows_of(notes=notes, **given)
    assert [row["uid"][-5:] for row in rows] == ["00001"]
    dropped = notes.as_dict()["dropped"]["story under 300 Llama-2 tokens"]
    assert dropped == {"count": 2, "first": ["0", "2"]}
    with pytest.raises(ValueError, match=r"all 3 documents are under the floor of 65536"):
        rows_of(**{**given, "document_floor": None})


def test_an_unknown_field_is_counted_and_named(tmp_path, toks):
    ctxs = [{"title": "t", "text": "gold here", "is_gold": True}]
    rows = [{"question": f"q{i}", "answers": ["gold"], "ctxs": ctxs, "odd": 1} for i in range(3)]
    layout.write_jsonl(layout.test_file(tmp_path, "kilt_nq", 8192), rows)
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_nq"), rows[:1])
    notes = Notes()
    rows_of(notes=notes, **metadata(tmp_path, toks[False], task="kilt_nq"))
    assert notes.as_dict()["unknown_fields"] == {"odd": 4}
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_nq"), [{"question": "q"}])
    with pytest.raises(ValueError, match=r"k3_dep6\.jsonl:1: .*\['answers', 'ctxs'\]"):
        rows_of(**metadata(tmp_path, toks[False], task="kilt_nq"))


@pytest.mark.parametrize("layout_of_gold", ["positive_ctxs", "gold_positions", "answer"])
def test_a_gold_passage_lost_to_truncation(layout_of_gold):
    ctxs = [{"title": f"t{i}", "text": f"text {i}"} for i in range(3)]
    row = {"question": "q", "answers": ["Text 2!"], "ctxs": ctxs}
    if layout_of_gold == "positive_ctxs":
        row["positive_ctxs"] = [ctxs[2]]
    elif layout_of_gold == "gold_positions":
        row["gold_positions"] = [2]
    survived = kilt.parts_of(0, Record(row, "f:1"), "").survived
    assert survived(kilt.passages(ctxs)) is True
    assert survived(kilt.passages(ctxs[:2])) is False


def test_samples_are_nested_and_rag_takes_one_depth_per_question(tmp_path, toks):
    ctxs = [{"title": "t", "text": "gold"}]
    rows = [
        {"question": f"q{i}", "answers": ["gold"], "ctxs": ctxs, "depth": d}
        for i in range(4)
        for d in range(3)
    ]
    layout.write_jsonl(layout.test_file(tmp_path, "kilt_hotpotqa", 8192), rows)
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_hotpotqa"), rows[:6])
    made = {
        n: rows_of(**metadata(tmp_path, toks[False], task="kilt_hotpotqa", samples=n))
        for n in (2, 4, 12, 600)
    }
    assert made[600] == made[12] and made[12][:4] == made[4] and made[4][:2] == made[2]
    extra = [json.loads(row["extra"]) for row in made[600]]
    assert len({one["key"] for one in extra[:4]}) == 4
    assert [one["depth"] for one in extra[:4]] == [0, 1, 2, 0]
    assert len({(one["key"], one["depth"]) for one in extra}) == 12


def test_clinic_is_scored_on_either_split(tmp_path, toks):
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} {i}", "intent": i} for i in range(3)]
        layout.write_jsonl(layout.hub_file(tmp_path, "clinic150", split), rows)
    for split in ("validation", "test"):
        given = metadata(tmp_path, toks[False], task="icl_clinic150", clinic_split=split)
        notes = Notes()
        made = rows_of(notes=notes, **given)
        assert all(f"\n\n{split} {i}\nlabel:" in row["prompt"] for i, row in enumerate(made))
        assert notes.as_dict()["test_split"] == split
    with pytest.raises(ValueError, match="clinic_split"):
        rows_of(**metadata(tmp_path, toks[False], task="icl_clinic150", clinic_split="dev"))


def test_a_label_outside_the_mapping_is_refused(tmp_path, toks):
    for split in ("train", "test"):
        rows = [{"text": "t", "label": "card_arrival"}]
        layout.write_jsonl(layout.hub_file(tmp_path, "banking77", split), rows)
    with pytest.raises(ValueError, match=r"label='card_arrival' must be the hub's integer"):
        rows_of(**metadata(tmp_path, toks[False], task="icl_banking77"))


def test_rows_beyond_five_hundred_are_balanced():
    test = icl.Examples([f"t{i}" for i in range(600)], [i % 4 for i in range(600)])
    order = icl.balanced_rows(test, 42)
    assert len(order) == 500
    assert pd.Series([test.labels[i] for i in order]).value_counts().tolist() == [125] * 4
    few = icl.Examples(test.texts[:500], test.labels[:500])
    assert icl.balanced_rows(few, 42) == list(range(500))
