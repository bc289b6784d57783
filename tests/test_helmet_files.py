"""Rows from HELMET's own files: golden prompts, selection, errors."""

import json

import pytest

from rr_bench.tasks.datasets import json_kv, niah, recall_prefill
from rr_bench.tasks.files.jsonl import read_rows
from rr_bench.tasks.files.selection import chosen_rows
from rr_bench.tasks.prompts import templates
from rr_bench.tasks.settings import DataSettings
from rr_bench.tasks.sources import TASKS, identity, source_files
from rr_bench.tasks.task import process_results
from tests import helmet_layout as layout
from tests.tiny import recall_rows as rows


@pytest.fixture(scope="module")
def toks(tmp_path_factory):
    return layout.tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def tok(toks):
    return toks[False]


real = pytest.mark.skipif(
    not layout.SHARED.is_dir(), reason="needs ../shared/data beside the repository"
)
on_or_off = pytest.mark.parametrize("chat", [True, False])
"""Recall is run without a chat template, whether the tokenizer has one or not."""


def by_uid(found):
    return sorted(found, key=lambda row: row["uid"])


KV = [
    {
        "context": 'JSON data:\n{\n    "k1": "v1",\n    "k2": "{v2}",\n    "k3": "v3"\n}',
        "question": "k2",
        "answer": "{v2}",
        "demos": [["k1", "v1"], ["k3", "v3"], ["k9", "v9"]],
        "depth": 0.4,
        "num_kvs": 3,
    },
    {
        "context": "JSON data:\n{{}}",
        "question": "a",
        "answer": ["b", "c"],
        "demos": [["x", "y"], ["z", "w"]],
    },
]

NEEDLES = [
    {"context": "Hay.", "query": "red-fox", "type_needle_v": "number", "answer": ["7"]},
    {"context": "More.", "query": "old-owl", "type_needle_v": "number", "outputs": ["8", "9"]},
]


def helmet(tmp_path, task, records, length=8192):
    return layout.write_jsonl(layout.test_file(tmp_path, task, length), records)


@on_or_off
def test_json_kv_golden(tmp_path, toks, chat):
    helmet(tmp_path, "json_kv", KV)
    first, second = by_uid(
        rows("json_kv", length=8192, samples=2, tokenizer=toks[chat], helmet_dir=str(tmp_path))
    )
    assert first["prompt"] == (
        'JSON data:\n{\n    "k1": "v1",\n    "k2": "{v2}",\n    "k3": "v3"\n}\n\n'
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        "Key: k1\nCorresponding value: v1\n\nKey: k3\nCorresponding value: v3\n\n"
        "Key: k2\nCorresponding value:"
    )
    assert second["prompt"] == (
        "JSON data:\n{{}}\n\n"
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        "Key: x\nCorresponding value: y\n\nKey: z\nCorresponding value: w\n\n"
        "Key: a\nCorresponding value:"
    )
    assert (json.loads(first["golds"]), json.loads(second["golds"])) == (["{v2}"], ["b", "c"])
    assert json.loads(first["extra"]) == {"pairs": 3, "depth": 0.4, "gold_survived": True}
    assert (first["uid"], first["source"]) == ("json_kv-8192-helmet-00000", "helmet")


@pytest.mark.parametrize(
    ("task", "kind", "verb", "article"),
    [
        ("niah_mk_2", "number", "is", "A special magic number is"),
        ("niah_mk_3", "uuid", "is", "A special magic uuid is"),
        ("niah_mv", "numbers", "are", "Some special magic numbers are"),
    ],
)
@on_or_off
def test_niah_golden(tmp_path, toks, chat, task, kind, verb, article):
    records = [
        {"context": "Hay {x}.", "query": "red-fox", "type_needle_v": kind, "answer": ["7"]},
        {"context": "More.", "query": "old-owl", "type_needle_v": kind, "outputs": ["8", "9"]},
    ]
    helmet(tmp_path, task, records)
    given = {"length": 8192, "samples": 2, "tokenizer": toks[chat], "helmet_dir": str(tmp_path)}
    found = by_uid(rows(task, **given))
    what = f"What {'are all' if verb == 'are' else 'is'} the special magic {kind}"
    for row, context, query, golds in zip(
        found, ("Hay {x}.", "More."), ("red-fox", "old-owl"), (["7"], ["8", "9"]), strict=True
    ):
        assert row["prompt"] == (
            f"{article} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind} afterwards.\n{context}\n"
            f"{what} for {query} mentioned in the provided text?\n"
            f"The special magic {kind} for {query} mentioned in the provided text {verb}"
        )
        assert json.loads(row["golds"]) == golds
        assert row["lead_in"] == row["prompt"].split("\n")[-1]


def test_json_kv_without_demonstrations_keeps_the_gap(tmp_path, tok):
    helmet(tmp_path, "json_kv", [{**KV[1], "demos": []}])
    (row,) = rows("json_kv", length=8192, samples=1, tokenizer=tok, helmet_dir=str(tmp_path))
    assert row["prompt"].endswith("JSON object below.\n\n\n\nKey: a\nCorresponding value:")


def test_recall_prefill_golden(tmp_path, tok, monkeypatch):
    pairs = [(f"k{i}", f"v{i}") for i in range(4)]
    monkeypatch.setattr(recall_prefill, "choose", lambda rng, kv, n: [2 % len(kv), 0][:n])
    other = 'Data: {"a": "b",\n "c": "d","e": "f", "g": "h"}'
    contexts = [templates.json_object(pairs), other]
    records = [{**KV[0], "context": context} for context in contexts]
    helmet(tmp_path, "json_kv", records)
    first, second = by_uid(
        rows("recall_prefill", length=8192, samples=2, tokenizer=tok, helmet_dir=str(tmp_path))
    )
    assert first["prompt"] == (
        'JSON data:\n{\n    "k0": "v0",\n    "k1": "v1",\n    "k2": "v2",\n    "k3": "v3"\n}\n\n'
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        "Key: k2\nCorresponding value: v2\n\nKey: k0\nCorresponding value: v0"
    )
    assert second["prompt"] == (
        'JSON data:\n{\n    "a": "b",\n    "c": "d",\n    "e": "f",\n    "g": "h"\n}\n\n'
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        "Key: e\nCorresponding value: f\n\nKey: a\nCorresponding value: b"
    )
    assert json.loads(first["golds"]) == ["v2", "v0"] and first["source"] == "helmet"


@real
def test_real_json_kv_rows(tmp_path, tok):
    records = read_rows(layout.SHARED / "json_kv_k75.jsonl", json_kv.FIELDS)
    helmet(tmp_path, "json_kv", records)
    metadata = {"length": 8192, "samples": 24, "tokenizer": tok, "helmet_dir": str(tmp_path)}
    found = rows("json_kv", **metadata)
    assert sorted(row["uid"] for row in found) == [f"json_kv-8192-helmet-{i:05d}" for i in range(24)]
    for row in found:
        record = records[int(row["uid"][-5:])]
        (k1, v1), (k2, v2) = record["demos"][:2]
        assert row["prompt"] == (
            record["context"]
            + "\n\nExtract the value corresponding to the specified key in the JSON object below.\n\n"
            + f"Key: {k1}\nCorresponding value: {v1}\n\nKey: {k2}\nCorresponding value: {v2}\n\n"
            + f"Key: {record['question']}\nCorresponding value:"
        )
        assert process_results(row, [f" {record['answer']}\n\nKey:"])["score"] == 1.0
        assert process_results(row, [f" {v1}"])["score"] == 0.0
    graded = rows("recall_prefill", **metadata)
    assert graded[:3] == rows("recall_prefill", **{**metadata, "samples": 3})
    for row in graded:
        kept = recall_prefill.parse_object(row["prompt"].split("\n\nExtract")[0], "test")
        source = recall_prefill.parse_object(records[int(row["uid"][-5:])]["context"], "test")
        assert kept == source[: len(kept)] and row["input_len"] <= 8192


@real
def test_real_multivalue_rows_truncated(tmp_path, tok):
    records = read_rows(layout.SHARED / "ruler_niah_multivalue.jsonl", niah.FIELDS)
    helmet(tmp_path, "niah_mv", records)
    metadata = {"samples": 6, "tokenizer": tok, "helmet_dir": str(tmp_path)}
    for row in rows("niah_mv", length=8192, **metadata):
        record = records[int(row["uid"][-5:])]
        context = row["prompt"].split("\n", 1)[1].rsplit("\nWhat are all", 1)[0]
        assert row["truncated"] and record["context"].startswith(context)
        assert abs(row["input_len"] - row["budget"]) <= 2 and row["budget"] == 8142
        survived = all(gold in context for gold in record["outputs"])
        assert json.loads(row["extra"])["gold_survived"] is survived
        assert process_results(row, [", ".join(record["outputs"][:3])])["score"] == 0.75


def test_selection_is_helmets_permutation():
    assert chosen_rows(600, 42, 12) == [522, 409, 86, 441, 309, 514, 295, 324, 459, 325, 302, 225]
    assert chosen_rows(100, 42, 12) == [59, 21, 56, 18, 33, 42, 50, 27, 92, 71, 2, 25]
    assert sorted(chosen_rows(6, 42, 12)) == list(range(6))
    assert len(chosen_rows(600, 42, 500)) == 100


def test_corrupt_line_names_file_and_line(tmp_path, tok):
    path = helmet(tmp_path, "json_kv", KV)
    path.write_text(path.read_text() + '{"context": "torn', encoding="utf-8")
    with pytest.raises(ValueError, match=r"test_k105_dep6\.jsonl:3: corrupt JSONL line"):
        rows("json_kv", length=8192, samples=1, tokenizer=tok, helmet_dir=str(tmp_path))


def test_unknown_layout_names_the_fields(tmp_path, tok):
    helmet(tmp_path, "niah_mk_2", [{"input": "x", "outputs": ["1"]}])
    fields = r":1: .*\['context', 'query', 'type_needle_v'\].*\['input', 'outputs'\]"
    with pytest.raises(ValueError, match=fields):
        rows("niah_mk_2", length=8192, samples=1, tokenizer=tok, helmet_dir=str(tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_missing_length_lists_those_that_exist(tmp_path, tok, task):
    helmet(tmp_path, "json_kv" if task == "recall_prefill" else task, KV)
    with pytest.raises(ValueError, match=r"`lengths`=2048 has no .* file .*: \[8192\]"):
        rows(task, length=2048, samples=1, tokenizer=tok, helmet_dir=str(tmp_path), recall="files")
    with pytest.raises(ValueError, match=r"`data\.helmet_dir`=.* does not exist"):
        source_files(task, 8192, DataSettings(helmet_dir=str(tmp_path / "elsewhere")))


def test_source_files(tmp_path):
    path = helmet(tmp_path, "niah_mv", KV)
    essay = tmp_path / "essay.txt"
    both = DataSettings(helmet_dir=str(tmp_path), haystack=str(essay))
    drawn = DataSettings(haystack=str(essay))
    assert source_files("niah_mv", 8192, both) == [path]
    assert source_files("niah_mv", 4096, drawn) == source_files("niah_mv", 4096, both) == [essay]
    assert source_files("json_kv", 4096, drawn) == []
    with pytest.raises(ValueError, match="no task 'kv'"):
        source_files("kv", 4096, DataSettings())


@pytest.mark.parametrize("task", TASKS)
def test_recall_comes_from_files_or_is_generated_as_the_setting_says(tmp_path, tok, task):
    """One folder of HELMET's with a file for 8192 only."""
    records = KV if task in ("json_kv", "recall_prefill") else NEEDLES
    helmet(tmp_path, "json_kv" if task == "recall_prefill" else task, records)
    given = {"samples": 1, "tokenizer": tok, "helmet_dir": str(tmp_path)}
    for recall, length, expected in (
        ("auto", 8192, "helmet"),
        ("auto", 2048, "generated"),
        ("files", 8192, "helmet"),
        ("generated", 8192, "generated"),
    ):
        data = DataSettings(helmet_dir=str(tmp_path), recall=recall)
        assert identity(task, length, data)["source"] == expected
        if (task, expected) != ("recall_prefill", "helmet"):  # its rows here have objects too small
            (row,) = rows(task, length=length, recall=recall, **given)
            assert row["source"] == expected
    with pytest.raises(ValueError, match=r"`data\.recall`=files needs HELMET's folder"):
        rows(task, length=8192, samples=1, tokenizer=tok, recall="files")
