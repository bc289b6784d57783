"""The store: what a kill, a second writer or a damaged file may and may not do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench.store.cells import StoreError, cell_key, read_cells
from rr_bench.store.lock import LockError
from rr_bench.store.records import CellInfo, RecordError, SampleRecord, from_json, to_json
from tests.fabricate import FULL, RR, open_cell, record, settings, write_cell


def fill(out: Path, count: int) -> Path:
    cell = open_cell(out)
    with cell:
        for uid in range(count):
            cell.append(record(str(uid), uid / 10))
    return cell.folder / "samples.jsonl"


def test_cell_round_trip(tmp_path: Path) -> None:
    written = write_cell(tmp_path, RR, [1.0, 0.5], density=0.4)
    (cell,) = read_cells(tmp_path)
    assert cell.info == written.info
    assert cell.samples == [record("0", 1.0, density=0.4), record("1", 0.5, density=0.4)]
    assert (cell.done, cell.torn, cell.errors) == (2, False, [])
    assert cell.env["versions"] == {"torch": "2.13"}
    assert not (written.folder / "LOCK").exists()


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
    path.write_bytes(whole + b'{"schema": 1, "uid": "2", "sco')
    (cell,) = read_cells(tmp_path)
    assert cell.torn and len(cell.samples) == 2
    assert path.read_bytes() != whole, "reading must not repair"
    with open_cell(tmp_path) as writer:
        assert list(writer.finished) == ["0", "1"]
        writer.append(record("2", 1.0))
    assert "torn last line of 30 bytes" in caplog.text
    assert len(read_cells(tmp_path)[0].samples) == 3


def test_corrupt_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = fill(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + b"garbage\n" + lines[2]
    path.write_bytes(damaged)
    cell = open_cell(tmp_path)
    with pytest.raises(RecordError, match=r"samples\.jsonl:2: not JSON"), cell:
        pass
    assert path.read_bytes() == damaged
    assert not (cell.folder / "LOCK").exists()
    with pytest.raises(RecordError, match=r"samples\.jsonl:2"):
        read_cells(tmp_path)


def test_failed_sample_is_tried_again_and_keeps_the_cell_open(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with cell:
        cell.append(record("0", None))
        with pytest.raises(StoreError, match="1 failure"):
            cell.finish(1)
    again = open_cell(tmp_path)
    assert again.finished == {}
    with again:
        again.append(record("0", 1.0))
        again.finish(1)
    assert read_cells(tmp_path)[0].samples == [record("0", 1.0)]


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
    (stored,) = read_cells(tmp_path)
    assert stored.errors[0]["where"] == "cell"
    assert stored.errors[0]["message"] == "lengths=4096: out of memory"
    assert stored.done is None


def test_failure_is_not_noted_in_a_cell_that_another_process_writes(tmp_path: Path) -> None:
    with open_cell(tmp_path) as cell, pytest.raises(LockError):
        open_cell(tmp_path).fail("cell", "broken")
    assert not (cell.folder / "errors.jsonl").exists()
    assert not (cell.folder / "LOCK").exists()


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
        pytest.raises(LockError, match=f"process {os.getpid()}"),
        open_cell(tmp_path),
    ):
        pass
    with open_cell(tmp_path):
        pass


@pytest.mark.parametrize("ending", ["gone", "zombie", "other process of that id"])
def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path, ending: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    if ending == "gone":
        child.wait()
    else:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped
    owner = {"host": socket.gethostname(), "pid": child.pid, "started": None}
    if ending == "other process of that id":
        owner |= {"pid": os.getpid(), "started": "1"}
    path = fill(tmp_path, 1).with_name("LOCK")
    path.write_text(json.dumps(owner))
    with open_cell(tmp_path) as cell:
        cell.append(record("1", 1.0))
    child.wait()
    assert [sample.uid for sample in read_cells(tmp_path)[0].samples] == ["0", "1"]
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "cell.json",
        "env.json",
        "samples.jsonl",
    ]


@pytest.mark.parametrize(
    "text",
    ['{"host": "another-host", "pid": 1, "started": null}', ""],
    ids=["other host", "unreadable"],
)
def test_lock_that_may_be_alive_is_respected(tmp_path: Path, text: str) -> None:
    path = fill(tmp_path, 1).with_name("LOCK")
    path.write_text(text)
    with pytest.raises(LockError, match="delete"), open_cell(tmp_path):
        pass
    assert path.read_text() == text


def test_resumed_cell_lists_what_changed(tmp_path: Path) -> None:
    cell = open_cell(tmp_path)
    with cell:
        pass
    cell._env = {**cell._env, "device": "GPU", "time": "2026-02-02T00:00:00+00:00"}
    for _ in range(2):
        with cell:
            pass
    env = read_cells(tmp_path)[0].env
    assert env["device"] == "cpu"
    assert env["resumed"] == [{"device": "GPU", "time": "2026-02-02T00:00:00+00:00"}]


def test_edited_settings_are_noticed(tmp_path: Path) -> None:
    path = write_cell(tmp_path, FULL, [1.0]).folder / "cell.json"
    path.write_text(path.read_text().replace('"seed": 42', '"seed": 43'))
    with pytest.raises(StoreError, match="edited"):
        read_cells(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_field": 1}, "unknown field extra_field"),
        ({"uid": None}, "missing field uid"),
        ({"schema": 2}, "schema 2, this version reads schema 1"),
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
    info = {"key": "k", "label": "l", "model": {"name": "m", "path": "p"}, "method": FULL, "task": "t"}
    info |= {
        "task_version": 1,
        "length": 1,
        "seed": 1,
        "source": "generated",
        "settings": {},
        "sources": {},
    }
    with pytest.raises(RecordError, match=r"model\.dtype must be a str"):
        from_json(CellInfo, json.dumps(info | {"schema": 1}), "cell.json")
