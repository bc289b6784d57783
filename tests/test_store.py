"""The store: what a kill, a second writer or a damaged file may and may not do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench.store.cells import LockError, cell_key
from rr_bench.store.freeze import freeze
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import read_cell, read_store
from rr_bench.store.records import (
    CellInfo,
    RecordError,
    SampleRecord,
    from_json,
    read_line,
    sample_line,
    to_json,
)
from tests.fabricate import FULL, RR, cells_of, open_cell, record, settings, write_cell


def fill(out: Path, count: int) -> Path:
    cell = open_cell(out)
    with cell:
        for uid in range(count):
            cell.append(record(str(uid), uid / 10))
    return cell.folder / "samples.jsonl"


def test_cell_round_trip(tmp_path: Path) -> None:
    written = write_cell(tmp_path, RR, [1.0, 0.5], density=0.4)
    (cell,) = cells_of(tmp_path)
    assert cell.info == written.info
    assert cell.samples == [record("0", 1.0, density=0.4), record("1", 0.5, density=0.4)]
    assert (cell.done, cell.torn, cell.errors) == (2, False, [])
    assert cell.env["versions"] == {"torch": "2.13"}


def test_key_depends_on_every_setting_but_not_on_order() -> None:
    base = settings()
    assert cell_key(dict(reversed(base.items()))) == cell_key(base)
    keys = {cell_key(base)} | {cell_key({**base, name: "other"}) for name in base}
    assert len(keys) == len(base) + 1
    assert cell_key(settings(RR)) != cell_key(base)


def test_key_refuses_what_json_cannot_say() -> None:
    for value in (float("nan"), object()):
        with pytest.raises(StoreError, match="plain JSON"):
            cell_key({"tau": value})


def test_label_is_not_part_of_the_identity(tmp_path: Path) -> None:
    first = write_cell(tmp_path, FULL, [1.0])
    renamed = open_cell(tmp_path, {**FULL, "label": "dense"})
    assert renamed.folder == first.folder
    assert renamed.done(1)


def test_finished_samples_survive_and_done_needs_enough(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    again = open_cell(tmp_path)
    assert list(again.finished) == ["0", "1", "2"]
    assert not again.done(3)
    with again:
        again.finish(3)
    fresh = open_cell(tmp_path)
    assert fresh.done(2) and fresh.done(3) and not fresh.done(4)


def test_done_is_void_when_lines_are_gone(tmp_path: Path) -> None:
    folder = write_cell(tmp_path, FULL, [1.0, 1.0]).folder
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(lines[0])
    assert not open_cell(tmp_path).done(2)


def test_torn_last_line_is_cut_off_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fill(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"schema": 2, "uid": "2", "sco')
    (cell,) = cells_of(tmp_path)
    assert cell.torn and len(cell.samples) == 2
    assert path.read_bytes() != whole, "reading must not repair"
    with open_cell(tmp_path) as writer:
        assert list(writer.finished) == ["0", "1"]
        writer.append(record("2", 1.0))
    assert "torn last line of 30 bytes" in caplog.text
    assert len(cells_of(tmp_path)[0].samples) == 3


def test_corrupt_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + b"garbage\n" + lines[2]
    path.write_bytes(damaged)
    cell = open_cell(tmp_path)
    with pytest.raises(RecordError, match=r"samples\.jsonl:2: not JSON"), cell:
        pass
    assert path.read_bytes() == damaged
    (problem,) = read_store(tmp_path)[1]
    assert "samples.jsonl:2" in problem


def test_failed_sample_is_tried_again_and_the_marker_counts_it(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with cell:
        cell.append(record("0", None))
        cell.append(record("1", 0.5))
        cell.finish(2)
    (stored,) = cells_of(tmp_path)
    assert stored.done == 2 and list(stored.scored) == ["1"]
    again = open_cell(tmp_path)
    assert list(again.finished) == ["1"] and not again.done(2)
    with again:
        again.append(record("0", 1.0))
        again.finish(2)
    assert open_cell(tmp_path).done(2)
    assert cells_of(tmp_path)[0].samples == [record("0", 1.0), record("1", 0.5)]


def test_append_refuses_doubles_strangers_and_unlocked_cells(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with pytest.raises(StoreError, match="with cell"):
        cell.append(record("0", 1.0))
    with cell:
        cell.append(record("0", 1.0))
        with pytest.raises(StoreError, match="finished already"):
            cell.append(record("0", 1.0))
        with pytest.raises(StoreError, match="not of full"):
            cell.append(record("1", 1.0, length=8192))


def test_failure_is_stored_without_a_lock(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    cell.fail("cell", "lengths=4096: out of memory")
    (stored,) = cells_of(tmp_path)
    assert stored.errors[0]["where"] == "cell"
    assert stored.errors[0]["message"] == "lengths=4096: out of memory"
    assert stored.done is None


def test_failure_is_not_noted_in_a_cell_that_another_process_writes(tmp_path: Path) -> None:
    with open_cell(tmp_path) as cell, pytest.raises(LockError):
        open_cell(tmp_path).fail("cell", "broken")
    assert not (cell.folder / "errors.jsonl").exists()


def test_stored_errors_name_no_absolute_path(tmp_path: Path) -> None:
    with open_cell(tmp_path) as cell:
        cell.append(record("0", None, error="cannot read /home/someone/model"))
        cell.fail("cell", "cannot read /home/someone/model")
    for name in ("samples.jsonl", "errors.jsonl"):
        text = (cell.folder / name).read_text()
        assert "…/model" in text and "someone" not in text


def test_lock_held_by_a_running_process(tmp_path: Path) -> None:
    with (
        open_cell(tmp_path),
        pytest.raises(LockError, match="written by another process"),
        open_cell(tmp_path),
    ):
        pass
    with open_cell(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", '{"host": "elsewhere", "pid": 1}'])
def test_a_lock_file_that_nobody_holds_is_in_nobodys_way(tmp_path: Path, text: str) -> None:
    fill(tmp_path, 1).with_name("LOCK").write_text(text)
    with open_cell(tmp_path) as cell:
        cell.append(record("1", 1.0))
    assert [sample.uid for sample in cells_of(tmp_path)[0].samples] == ["0", "1"]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = fill(tmp_path, 1).parent
    code = (
        "import sys, time\n"
        "from filelock import FileLock\n"
        f"lock = FileLock({str(folder / 'LOCK')!r})\n"
        "lock.acquire()\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    with pytest.raises(LockError), open_cell(tmp_path):
        pass
    child.kill()
    child.wait()
    with open_cell(tmp_path) as cell:
        cell.append(record("1", 1.0))


def test_resumed_cell_lists_what_changed(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with cell:
        pass
    cell._env = {**cell._env, "device": "GPU", "time": "2026-02-02T00:00:00+00:00"}
    for _ in range(2):
        with cell:
            pass
    env = cells_of(tmp_path)[0].env
    assert env["device"] == "cpu"
    assert env["resumed"] == [{"device": "GPU", "time": "2026-02-02T00:00:00+00:00"}]


def test_edited_settings_are_noticed(tmp_path: Path) -> None:
    path = write_cell(tmp_path, FULL, [1.0]).folder / "cell.json"
    path.write_text(path.read_text().replace('"seed": 42', '"seed": 43'))
    with pytest.raises(StoreError, match="edited"):
        read_cell(path.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_field": 1}, "unknown field extra_field"),
        ({"uid": None}, "missing field uid"),
        ({"schema": 1}, "schema 1, this version reads schema 2"),
        ({"length": "4096"}, "field length must be int"),
        ({"truncated": 1}, "field truncated must be bool"),
        ({"kernels": [1]}, r"field kernels must be list\[str\]"),
        ({"density": float("nan")}, "field density must be float"),
        ({"score": 1.5}, "outside 0..1"),
        ({"error": "boom"}, "either a score or an error"),
    ],
)
def test_record_is_checked_on_read(change: dict, message: str) -> None:
    data = json.loads(to_json(record("0", 1.0))) | change
    data = {name: value for name, value in data.items() if not (name == "uid" and value is None)}
    with pytest.raises(RecordError, match=f"^here:7: .*{message}"):
        from_json(SampleRecord, json.dumps(data), "here:7")


def test_cell_info_needs_its_parts() -> None:
    info = {"key": "k", "label": "l", "model": {"name": "m"}, "method": FULL, "settings": settings()}
    with pytest.raises(RecordError, match=r"model\.path must be a str"):
        from_json(CellInfo, json.dumps(info | {"schema": 2}), "cell.json")


def test_a_line_names_its_cell_and_notices_an_edit() -> None:
    line = sample_line(record("0", 0.5), "a" * 12)
    assert read_line(line, "here:1") == ("a" * 12, record("0", 0.5))
    with pytest.raises(RecordError, match=r"here:1: .*checksum"):
        read_line(line.replace('"score": 0.5', '"score": 0.6'), "here:1")
    with pytest.raises(RecordError, match=r"belongs to cell a+, not b+"):
        read_line(line, "here:1", "b" * 12)


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
        (damage_nan, "checksum", 1),
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


def test_a_frozen_store_reads_as_the_running_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_cell(run, FULL, [1.0, 0.25])
    write_cell(run, RR, [1.0, None])
    with open_cell(run, RR, task="niah_mv") as unfinished:
        unfinished.append(record("0", 1.0, task="niah_mv"))
        unfinished.note_data({"dropped": {}})
    cells, samples = freeze(run, tmp_path / "frozen")
    before = {cell.info.key: cell for cell in cells_of(run)}
    assert {cell.info.key: cell for cell in cells_of(tmp_path / "frozen")} == before
    assert cells.name == "cells.jsonl" and samples.name == "samples.jsonl.gz"
    again = [path.read_bytes() for path in freeze(tmp_path / "frozen", tmp_path / "again")]
    assert again == [cells.read_bytes(), samples.read_bytes()]


def test_what_was_frozen_is_checked_as_well(tmp_path: Path) -> None:
    write_cell(tmp_path / "run", FULL, [1.0, 0.25])
    write_cell(tmp_path / "run", RR, [1.0, 0.5])
    cells, _ = freeze(tmp_path / "run", tmp_path / "frozen")
    lines = cells.read_text().splitlines(keepends=True)
    cells.write_text("".join([*lines, lines[0]]))
    assert len(read_store(tmp_path / "frozen")[1]) == 1
    cells.write_text(lines[0] + lines[1].replace('"seed": 42', '"seed": 43'))
    found, (problem,) = read_store(tmp_path / "frozen")
    assert "edited" in problem and len(found) == 1


def test_a_damaged_store_is_not_frozen(tmp_path: Path) -> None:
    damage_score(write_cell(tmp_path / "run", FULL, [1.0, 0.5]).folder)
    with pytest.raises(StoreError, match="checksum"):
        freeze(tmp_path / "run", tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()
