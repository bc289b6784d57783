"""Where rows come from: local copies in every format, the hub, and what is missing."""

import pandas as pd
import pytest

from rr_bench.tasks import sources
from rr_bench.tasks.files.hub import HUB_SETS, read_table, split_files
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.settings import DataSettings
from rr_bench.tasks.sources import TASKS, identity, labelled, newline_stop, source_files, versions
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
        files = split_files("banking77", "train", DataSettings(hub_dir=str(root)))
        table = read_table(files, ("text", "label"), ("text", "label"), notes)
        assert [table[i] for i in range(len(table))] == [
            {"text": f"t{i}", "label": i} for i in range(5)
        ]
        assert "extra" in notes.as_dict()["unknown_fields"]
    with pytest.raises(ValueError, match=r"no copy of banking77/test .*data\.hub=true"):
        split_files("banking77", "test", DataSettings(hub_dir=str(tmp_path / "json")))


def test_the_hub_is_asked_only_when_allowed(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        folder = tmp_path / "plus" / "test"
        folder.mkdir(parents=True)
        (folder / "0000.parquet").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    (file,) = split_files("clinic150", "test", DataSettings(hub=True))
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
            source_files(task, 8192, DataSettings(helmet_dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"set `data\.helmet_dir`"):
        source_files("msmarco_rerank", 8192, DataSettings())
    with pytest.raises(ValueError, match=r"`lengths`=5000"):
        source_files("icl_nlu", 5000, DataSettings(helmet_dir=str(tmp_path)))


def test_files_of_one_name_keep_apart(tmp_path):
    paths = [tmp_path / "a" / "0000.parquet", tmp_path / "b" / "0000.parquet", tmp_path / "c"]
    assert list(labelled(paths)) == ["a/0000.parquet", "b/0000.parquet", "c"]


@layout.real
def test_only_settings_that_matter_identify_a_cell(helmet_dir):
    data = DataSettings(
        helmet_dir=str(helmet_dir), strict_truncation=True, chat="never", document_floor=0
    )

    def switches(task):
        return {k: v for k, v in identity(task, 8192, data).items() if k not in ("source", "files")}

    strict = {"strict_truncation": True}
    assert switches("json_kv") == switches("kilt_nq") == strict
    assert switches("icl_clinic150") == strict
    assert switches("alce_asqa") == strict | {"chat": "never"}
    documents = {"chat": "never", "document_floor": 0}
    assert switches("infbench_qa") == strict | documents
    generated = identity("json_kv", 8192, DataSettings(strict_truncation=True))
    assert generated == {"source": "generated", "files": {}}
    thinking = DataSettings(thinking=True)
    assert identity("json_kv", 8192, thinking)["thinking"] is True
    assert "thinking" not in identity("recall_prefill", 8192, thinking)


def test_a_changed_file_changes_the_identity_and_an_unchanged_one_is_read_once(tmp_path, monkeypatch):
    path = layout.test_file(tmp_path, "niah_mv", 8192)
    layout.write_jsonl(path, [{"context": "a"}])
    read = []
    monkeypatch.setattr(sources, "file_hash", lambda path: read.append(path) or f"hash{len(read)}")
    data = DataSettings(helmet_dir=str(tmp_path))
    first = identity("niah_mv", 8192, data)
    assert identity("niah_mv", 8192, data) == first and len(read) == 1
    layout.write_jsonl(path, [{"context": "another"}])
    assert identity("niah_mv", 8192, data) != first and len(read) == 2


def test_every_task_has_versions_and_a_newline_stop():
    for task in (*TASKS, *DATASETS):
        found = versions(task)
        assert list(found) == ["task", "prompts", "scorer"]
        assert all(isinstance(one, int) and one >= 1 for one in found.values())
    stops = {task for task in (*TASKS, *DATASETS) if newline_stop(task, "auto")}
    assert stops == {d.name for d in DATASETS.values() if d.category in ("rag", "icl", "rerank")}
    assert newline_stop("json_kv", True) and not newline_stop("kilt_nq", False)
    with pytest.raises(ValueError, match="no task 'recall'"):
        versions("recall")
