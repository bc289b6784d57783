"""The store: what a kill, a second writer or a damaged file may and may not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rr_bench.store.cells import Store, cell_key
from rr_bench.store.jsonl import StoreError
from rr_bench.store.lock import STALE_S, LockError, machine
from rr_bench.store.reading import read_store
from rr_bench.store.records import (
    RecordError,
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


def foreign(folder: Path, beat: str = "0123456789ab other") -> Path:
    """The heartbeat of a writer on another machine."""
    path = folder / "HEARTBEAT"
    path.write_text(beat)
    return path


def test_a_heartbeat_of_another_machine_is_waited_for_until_it_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("rr_bench.store.lock.monotonic", lambda: now[0])
    path = foreign(fill(tmp_path, 1).parent)
    store = Store(tmp_path)

    def attempt() -> None:
        cell = open_cell(tmp_path, store=store)
        with cell:
            cell.append(record("1", 1.0))

    for now[0] in (0.0, STALE_S - 1):
        with pytest.raises(LockError, match="another machine; it is taken over"):
            attempt()
    os.utime(path, (0, 0))  # a beat, by a clock that was set back
    for now[0] in (STALE_S + 1, 2 * STALE_S):
        with pytest.raises(LockError, match="another machine"):
            attempt()
    now[0] = 2 * STALE_S + 1
    attempt()
    assert [sample.uid for sample in cells_of(tmp_path)[0].samples] == ["0", "1"]
    assert not path.exists()


def test_a_heartbeat_of_this_machine_is_nothing_to_wait_for(tmp_path: Path) -> None:
    foreign(fill(tmp_path, 1).parent, f"{machine()} killed")
    with open_cell(tmp_path) as cell:
        cell.append(record("1", 1.0))


def test_a_heartbeat_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rr_bench.store.lock.BEAT_S", 0.01)
    with open_cell(tmp_path) as cell:
        path = cell.folder / "HEARTBEAT"
        os.utime(path, (0, 0))
        end = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize("lose", [lambda folder: shutil.rmtree(folder), foreign])
def test_a_cell_that_was_deleted_or_taken_over_meanwhile_is_written_no_more(
    tmp_path: Path, lose
) -> None:
    cell = open_cell(tmp_path)
    with cell:
        cell.append(record("0", 1.0))
        lose(cell.folder)
        with pytest.raises(StoreError, match="deleted or taken over"):
            cell.append(record("1", 1.0))


def test_partial_files_of_dead_processes_are_cleaned(tmp_path: Path) -> None:
    folder = fill(tmp_path, 1).parent
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, alive, other = (
        folder / f"DONE.{where}-{process}-0.partial"
        for where, process in ((machine(), child.pid), (machine(), os.getpid()), ("b" * 12, 1))
    )
    for path in (dead, alive, other):
        path.write_text("{")
    with open_cell(tmp_path):
        pass
    assert [path.exists() for path in (dead, alive, other)] == [False, True, True]
