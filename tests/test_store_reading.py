"""A damaged cell is named and left out; all others are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rr_bench.store.jsonl import StoreError, read_json, write_json
from rr_bench.store.reading import read_cell, read_store
from rr_bench.store.records import RecordError
from tests.fabricate import FULL, RR, cells_of, write_cell


def unsealed_text(text: str) -> str:
    """A JSON file's text without its checksum, as files were written before there was one."""
    content = json.loads(text)
    content.pop("check", None)
    return json.dumps(content)


def test_edited_settings_are_noticed(tmp_path: Path) -> None:
    path = write_cell(tmp_path, FULL, [1.0]).folder / "cell.json"
    text = path.read_text().replace('"seed": 42', '"seed": 43')
    path.write_text(text)
    with pytest.raises(RecordError, match="edited"):
        read_cell(path.parent)
    path.write_text(unsealed_text(text))
    with pytest.raises(StoreError, match="settings do not hash to the key"):
        read_cell(path.parent)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("cell.json", lambda cell: cell["method"].update(name="xattention"), "method.name"),
        ("cell.json", lambda cell: cell["method"].update(dense=True), "method.dense"),
        ("cell.json", lambda cell: cell["method"].update(label="rr(tau=0.5)"), "method.label"),
        ("cell.json", lambda cell: cell["method"]["params"].update(tau=0.5), "method.params"),
        ("cell.json", lambda cell: cell["model"].update(path="a@0123456789ab"), "model.path"),
        ("cell.json", lambda cell: cell.update(method=[]), "field method"),
        ("env.json", lambda env: env.update(resumed=[1]), "env.json"),
        ("env.json", lambda env: env.update(versions=[]), "env.json"),
        ("env.json", lambda env: env.pop("device"), "env.json"),
        ("env.json", dict.clear, "env.json"),
        ("data.json", lambda data: data.pop("dropped"), "data.json"),
        ("data.json", dict.clear, "data.json"),
        ("judged.json", dict.clear, "judged.json"),
        ("data.json", lambda data: data.update(gold_lost={"count": -1}), "data.json"),
        ("data.json", lambda data: data.update(dropped={"empty": 3}), "data.json"),
        ("judged.json", lambda judged: judged["f1"].update(value=1.5), "lies outside 0..1"),
        ("judged.json", lambda judged: judged["f1"].update(uids=["x"]), "judges 'x'"),
        ("judged.json", lambda judged: judged.update(f1=None), "must have value and uids"),
        ("DONE", lambda done: done.update(failed=-1), "expected n, scored, failed"),
        ("DONE", lambda done: done.update(n=True), "expected n, scored, failed"),
        ("DONE", lambda done: done.update(more=1), "expected n, scored, failed"),
    ],
)
def test_every_part_of_a_cell_is_checked_without_its_checksum_too(
    tmp_path: Path, part: str, change: Callable[[dict], None], words: str
) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.25])
    cell = write_cell(tmp_path, RR, [1.0, 0.5])
    with cell:
        cell.note_data({"dropped": {}, "gold_lost": {"count": 0, "uids": []}})
    write_json(cell.folder / "judged.json", {"f1": {"value": 0.5, "uids": ["0", "1"]}})
    path = cell.folder / part
    content = json.loads(unsealed_text(path.read_text()))
    path.write_text(json.dumps(content))
    assert len(cells_of(tmp_path)) == 2
    change(content)
    path.write_text(json.dumps(content))
    cells, (problem,) = read_store(tmp_path)
    assert words in problem and [one.info.dense for one in cells] == [True]


@pytest.mark.parametrize("part", ["cell.json", "env.json", "data.json", "DONE", "errors.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"a": ' * 5000 + b"1" + b"}" * 5000 + b"\n",
        b"[1]\n",
        b"\n",
    ],
    ids=["no UTF-8", "deep", "deep and closed", "a list", "empty"],
)
def test_what_is_no_json_object_is_a_problem_of_its_cell(
    tmp_path: Path, part: str, content: bytes
) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.25])
    folder = write_cell(tmp_path, RR, [1.0, 0.5]).folder
    (folder / part).write_bytes(content)
    cells, (problem,) = read_store(tmp_path)
    assert part in problem and [one.info.dense for one in cells] == [True]


def test_an_edited_part_does_not_fit_its_checksum(tmp_path: Path) -> None:
    path = write_cell(tmp_path, FULL, [1.0]).folder / "env.json"
    path.write_text(path.read_text().replace("2.13", "2.12"))
    with pytest.raises(StoreError, match="checksum"):
        read_json(path)


def test_a_checksum_that_lost_its_name_is_a_damage_too(tmp_path: Path) -> None:
    path = write_cell(tmp_path, FULL, [1.0]).folder / "env.json"
    path.write_text(path.read_text().replace("check", "chick").replace("device", "devece"))
    with pytest.raises(StoreError, match="checksum"):
        read_json(path)
    path.write_text('{"device": "cpu"}')
    assert read_json(path) == {"device": "cpu"}


def damage_copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("a copy"))


def damage_shorten(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def damage_remove(folder: Path) -> None:
    (folder / "samples.jsonl").unlink()


def damage_empty(folder: Path) -> None:
    (folder / "samples.jsonl").write_bytes(b"")


def damage_score(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"score": 0.5', '"score": 0.75'))


def damage_nan(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"score": 0.5', '"score": NaN'))


def damage_double(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")


def damage_strangers(folder: Path) -> None:
    other = next(path for path in folder.parent.iterdir() if path != folder)
    shutil.copy(other / "samples.jsonl", folder / "samples.jsonl")


@pytest.mark.parametrize(
    ("damage", "words", "left"),
    [
        (damage_copy, "is a copy of", 2),
        (damage_shorten, "1 scored samples where DONE vouches for 2", 1),
        (damage_remove, "0 scored samples where DONE vouches for 2", 1),
        (damage_empty, "0 scored samples where DONE vouches for 2", 1),
        (damage_score, "checksum", 1),
        (damage_nan, "NaN is no JSON", 1),
        (damage_double, "was scored before", 1),
        (damage_strangers, "belongs to cell", 1),
    ],
)
def test_a_cell_that_is_not_what_it_says_is_named_and_not_counted(
    tmp_path: Path, damage, words: str, left: int
) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.25])
    folder = write_cell(tmp_path, RR, [1.0, 0.5]).folder
    damage(folder)
    cells, (problem,) = read_store(tmp_path)
    assert words in problem and len(cells) == left
    assert all(len(cell.samples) == 2 for cell in cells)
