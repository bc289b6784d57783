"""A row that cannot be used is named with its file and row, whatever is wrong with it."""

import json

import pandas as pd
import pytest

from rr_bench.tasks.sources import rows_of
from tests import helmet_layout as layout

CTX = {"title": "t", "text": "gold here"}
RAG = {"question": "q", "answers": ["gold"], "ctxs": [CTX]}
POPQA = {**RAG, "id": 1, "s_pop": 5}
RANKED = {"qid": "a", "query": "q", "ctxs": [{"id": "1", "text": "x", "label": 1}]}
KV = {"context": "{}", "question": "k", "answer": "v", "demos": [["a", "b"], ["c", "d"]]}
NEEDLE = {"context": "c", "query": "k", "type_needle_v": "number", "answer": ["7"]}
DOCS = [{"title": "T", "text": "x"}]
STORY = {"id": 1, "context": "c", "input": "q", "answer": ["a"], "options": ["a", "b", "c", "d"]}
ASKED = {"question": {"text": "q"}, "answers": [{"text": "a"}], "document": {"id": "1", "text": "t"}}
CASE = {"id": "1", "sources": ["s"], "summary/short": "short"}


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return layout.tokenizer_dir(tmp_path_factory.mktemp("tok"), chat=False)


def write(root, task, row):
    """One good row, then the given one, wherever the task reads rows from."""
    good = {"kilt_nq": RAG, "kilt_popqa_3": POPQA, "msmarco_rerank": RANKED, "json_kv": KV}
    good |= {"niah_mk_2": NEEDLE}
    if task in good:
        layout.write_jsonl(layout.test_file(root, task, 8192), [good[task], row])
        if task in ("kilt_nq", "kilt_popqa_3", "msmarco_rerank"):
            layout.write_jsonl(layout.demo_file(root, task), [good[task]])
    elif task.startswith("alce"):
        fields = {"qa_pairs": [{"short_answers": ["a"]}], "answers": [["a"]]}
        whole = {"question": "q", "docs": DOCS, **fields}
        layout.write_json(layout.test_file(root, task, 8192), [whole, {**whole, **row}])
        name = f"{task.removeprefix('alce_')}_revised.json"
        layout.write_json(root / "prompts" / name, layout.ASQA_PROMPT)
    elif task == "narrativeqa":
        layout.write_jsonl(layout.hub_file(root, task, "train"), [ASKED, ASKED])
        layout.write_jsonl(layout.hub_file(root, task, "test"), [ASKED, {**ASKED, **row}])
    elif task == "multi_lexsum":
        layout.write_jsonl(layout.hub_file(root, task, "train"), [CASE, CASE])
        layout.write_jsonl(layout.hub_file(root, task, "validation"), [CASE, {**CASE, **row}])
    elif task == "infbench_qa":
        rows = [STORY, {**STORY, "id": 2, **row}]
        layout.write_jsonl(layout.hub_file(root, "infinitebench", "longbook_qa_eng"), rows)
    else:
        for split in ("train", "test"):
            rows = [{"text": "t", "label": 1}, {"text": "u", "label": 2, **row}]
            layout.write_jsonl(layout.hub_file(root, "banking77", split), rows)


BROKEN = [
    ("kilt_nq", {**RAG, "ctxs": [{"text": "x"}]}, r"ctxs\[0\]\.title must be text, got null"),
    ("kilt_nq", {**RAG, "ctxs": None}, r"ctxs must be a list, got null"),
    ("kilt_nq", {**RAG, "ctxs": "a passage"}, r"ctxs must be a list, got str 'a passage'"),
    ("kilt_nq", {**RAG, "ctxs": ["a passage"]}, r"ctxs\[0\] must be a passage"),
    ("kilt_nq", {**RAG, "answers": []}, r"answers is empty"),
    ("kilt_nq", {**RAG, "answers": None}, r"answers must be a list, got null"),
    ("kilt_nq", {**RAG, "answers": [1989]}, r"answers\[0\] must be text, got int 1989"),
    ("kilt_nq", {**RAG, "question": "half \ud83d"}, r"lone surrogate \(\\ud83d\)"),
    ("kilt_popqa_3", {**POPQA, "s_pop": 0}, r"s_pop=0 must be a number above 0"),
    ("kilt_popqa_3", {**POPQA, "id": None}, r"id must be text or a number, got None"),
    ("msmarco_rerank", {**RANKED, "ctxs": []}, r"ctxs is empty"),
    ("msmarco_rerank", {**RANKED, "ctxs": [{"id": "1", "text": "x"}]}, r"label must be a grade"),
    ("json_kv", {**KV, "answer": None}, r"answer must be a list, got null"),
    ("json_kv", {**KV, "answer": 7}, r"answer must be a list, got int 7"),
    ("json_kv", {**KV, "demos": [["a"]]}, r"demos\[0\] must be a key and its value"),
    ("niah_mk_2", {**NEEDLE, "answer": [7]}, r"answer\[0\] must be text, got int 7"),
    ("niah_mk_2", {**NEEDLE, "query": None}, r"query must be text, got null"),
    ("alce_asqa", {"qa_pairs": [{"short_answers": [None]}]}, r"qa_pairs\[0\]\.short_answers\[0\] must"),
    ("alce_qampari", {"answers": [3]}, r"answers\[0\] must be a list, got int 3"),
    ("alce_asqa", {"docs": None}, r"docs must be a list"),
    ("alce_asqa", {"question": "\udc00"}, r"lone surrogate"),
    ("narrativeqa", {"answers": []}, r"answers is empty"),
    ("narrativeqa", {"document": {"id": "1"}}, r"document\.text must be text"),
    ("infbench_qa", {"answer": None}, r"answer must be a list"),
    ("multi_lexsum", {"sources": None}, r"sources must be a list"),
    ("icl_banking77", {"text": None}, r"text must be text, got null"),
]


@pytest.mark.parametrize(("task", "row", "message"), BROKEN)
def test_a_broken_row_is_named_with_its_file(tmp_path, tok, task, row, message):
    write(tmp_path, task, row)
    given = {"length": 8192, "samples": 600, "tokenizer": tok, "helmet_dir": str(tmp_path)}
    given |= {"document_floor": 0, "llama2_tokenizer": tok}
    place = r"\.json(l:2|, row 1)(: | )"
    with pytest.raises(ValueError, match=place + ".*" + message):
        rows_of(task, **given)


def test_a_row_of_a_parquet_file_is_named_with_its_folder(tmp_path, tok):
    for split in ("train", "test"):
        (tmp_path / "banking77").mkdir(exist_ok=True)
        frame = pd.DataFrame({"text": ["t", None], "label": [1, 2]})
        frame.to_parquet(tmp_path / "banking77" / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"banking77, row 1: text must be text"):
        rows_of("icl_banking77", length=8192, samples=1, tokenizer=tok, hub_dir=str(tmp_path))


def test_popqa_without_a_rare_subject_is_named(tmp_path, tok):
    rows = [{**POPQA, "s_pop": 5000}]
    path = layout.write_jsonl(layout.test_file(tmp_path, "kilt_popqa_3", 8192), rows)
    layout.write_jsonl(layout.demo_file(tmp_path, "kilt_popqa_3"), rows)
    with pytest.raises(ValueError, match=rf"{path.name}: no row is about a rare subject"):
        rows_of("kilt_popqa_3", length=8192, samples=1, tokenizer=tok, helmet_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("task", "field", "row"),
    [
        ("kilt_nq", "answers", RAG),
        ("json_kv", "answer", KV),
        ("niah_mk_2", "answer", NEEDLE),
        ("infbench_qa", "answer", STORY),
    ],
)
def test_one_string_is_one_answer_everywhere(tmp_path, tok, task, field, row):
    write(tmp_path, task, {**row, field: "gold"})
    given = {"length": 8192, "samples": 2, "tokenizer": tok, "helmet_dir": str(tmp_path)}
    made = rows_of(task, **given, document_floor=0, llama2_tokenizer=tok)
    assert ["gold"] in [json.loads(one["golds"]) for one in made]
