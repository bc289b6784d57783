"""Where rows come from: local copies in every format, the hub, and what is missing."""

import pandas as pd
import pytest

from rr_bench.tasks.hubsets import HUB_SETS, read_table, split_files
from rr_bench.tasks.notes import Notes
from rr_bench.tasks.sources import labelled, source_files, switches
from tests import helmet_layout as layout


def test_local_copies_in_every_format_give_the_same_rows(tmp_path):
    rows = [{"text": f"t{i}", "label": i, "extra": "x"} for i in range(5)]
    frame = pd.DataFrame(rows)
    for name, write in {
        "jsonl": lambda p: layout.write_jsonl(p / "banking77" / "train.jsonl", rows),
        "json": lambda p: layout.write_json(p / "banking77" / "train.json", rows),
        "parquet": lambda p: frame.to_parquet(p / "banking77" / "train.parquet"),
        "parts": lambda p: [
            frame[:2].to_parquet(p / "banking77" / "train" / "0000.parquet"),
            frame[2:].to_parquet(p / "banking77" / "train" / "0001.parquet"),
        ],
    }.items():
        root = tmp_path / name
        (root / "banking77" / "train").mkdir(parents=True)
        write(root)
        notes = Notes()
        files = split_files("banking77", "train", None, root, False)
        table = read_table(files, ("text", "label"), ("text", "label"), notes)
        assert [table[i] for i in range(len(table))] == [
            {"text": f"t{i}", "label": i} for i in range(5)
        ]
        assert "extra" in notes.as_dict()["unknown_fields"]
    with pytest.raises(ValueError, match=r"no copy of banking77/test .*data\.hub=true"):
        split_files("banking77", "test", None, tmp_path / "json", False)


def test_the_hub_is_asked_only_when_allowed(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        folder = tmp_path / "plus" / "test"
        folder.mkdir(parents=True)
        (folder / "0000.parquet").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (file,) = split_files("clinic150", "test", None, None, True)
    assert file.name == "0000.parquet" and asked["repo"] == "clinc/clinc_oos"
    assert asked["revision"] == "refs/convert/parquet"
    assert asked["allow_patterns"] == ["plus/test/*.parquet"]
    assert HUB_SETS["infinitebench"].pattern("longbook_qa_eng") == "longbook_qa_eng.jsonl"


def test_rows_from_the_hub_are_those_of_a_local_copy(tmp_path, monkeypatch):
    """A stand-in for the hub serves converted Parquet parts, and InfiniteBench as it is."""
    rows = [{"text": f"t{i}", "intent": i % 3} for i in range(12)]
    story = {"id": 1, "context": "c", "input": "q", "answer": ["a"], "options": []}
    hub = tmp_path / "hub"
    for split, part in (("train", rows[:8]), ("validation", rows[8:])):
        layout.write_jsonl(layout.hub_file(tmp_path, "clinic150", split), part)
        (hub / "plus" / split).mkdir(parents=True)
        pd.DataFrame(part).to_parquet(hub / "plus" / split / "0000.parquet")
    layout.write_jsonl(layout.hub_file(tmp_path, "infinitebench", "longbook_qa_eng"), [story])
    layout.write_jsonl(hub / "longbook_qa_eng.jsonl", [story])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(hub))
    given = {"length": 8192, "samples": 3, "document_floor": 0}
    given["tokenizer"] = given["llama2_tokenizer"] = str(
        layout.tokenizer_dir(tmp_path / "t", chat=False)
    )
    for name in ("icl_clinic150", "infbench_qa"):
        build = layout.builder_of(name)
        assert build(**given, hub=True) == build(**given, helmet_dir=str(tmp_path)) != []
        with pytest.raises(ValueError, match=r"no copy of .*data\.hub=true"):
            build(**given)


def test_missing_files_are_named(tmp_path):
    for task, message in (
        ("kilt_nq", r"kilt_nq file .*lengths with a file: none"),
        ("alce_asqa", r"asqa_eval_gtr_top2000\.json is missing"),
        ("icl_trec_fine", r"no copy of trec/train"),
        ("narrativeqa", r"no copy of narrativeqa/train"),
    ):
        with pytest.raises(ValueError, match=message):
            source_files(task, 8192, tmp_path, None)
    with pytest.raises(ValueError, match=r"set `data\.helmet_dir`"):
        source_files("msmarco_rerank", 8192, None, None)
    with pytest.raises(ValueError, match=r"`lengths`=5000"):
        source_files("icl_nlu", 5000, tmp_path, None)


def test_files_of_one_name_keep_apart(tmp_path):
    paths = [tmp_path / "a" / "0000.parquet", tmp_path / "b" / "0000.parquet", tmp_path / "c"]
    assert list(labelled(paths)) == ["a/0000.parquet", "b/0000.parquet", "c"]


def test_only_switches_that_matter_identify_a_cell():
    given = {"chat": "auto", "clinic_split": "test", "document_floor": 0, "llama2_tokenizer": "a/b"}
    assert switches("json_kv", **given) == switches("kilt_nq", **given) == {}
    assert switches("icl_clinic150", **given) == {"clinic_split": "test"}
    assert switches("alce_asqa", **given) == {"chat": "auto"}
    assert switches("infbench_qa", **given) == {
        "chat": "auto",
        "document_floor": 0,
        "llama2_tokenizer": "a/b",
    }
