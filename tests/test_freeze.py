"""A frozen store reads as the running one, and goes back into one that runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench import ROOT
from rr_bench.report import write_report
from rr_bench.store.freeze import freeze, thaw
from rr_bench.store.jsonl import StoreError, write_json
from rr_bench.store.reading import read_store
from tests.fabricate import FULL, RR, cells_of, open_cell, record, write_cell


def test_a_thawed_store_is_the_one_that_was_frozen_and_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_cell(run, FULL, [1.0, 0.25])
    failed = write_cell(run, RR, [1.0, None])
    failed.fail("cell", "the model did not load")
    with open_cell(run, RR, task="niah_mv") as unfinished:
        unfinished.append(record("0", 1.0, task="niah_mv"))
        unfinished.note_data({"dropped": {}})
    write_json(failed.folder / "judged.json", {"fluency": {"value": 0.5, "uids": ["0"]}})
    freeze(run, tmp_path / "frozen")

    folders = thaw(tmp_path / "frozen", tmp_path / "thawed")
    before = {cell.info.key: cell for cell in cells_of(run)}
    assert {cell.info.key: cell for cell in cells_of(tmp_path / "thawed")} == before
    assert {folder.name for folder in folders} == {path.name for path in (run / "cells").iterdir()}

    cell = open_cell(tmp_path / "thawed", FULL)
    assert cell.done(2) and not cell.done(3)
    with cell:
        cell.append(record("2", 0.5))
        cell.finish(3)
    assert open_cell(tmp_path / "thawed", FULL).done(3)


def test_cells_are_thawed_into_an_empty_place_only(tmp_path: Path) -> None:
    write_cell(tmp_path / "run", FULL, [1.0])
    freeze(tmp_path / "run", tmp_path / "frozen")
    with pytest.raises(StoreError, match="empty `out`"):
        thaw(tmp_path / "frozen", tmp_path / "run")


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
    for changed, words in (('"seed": 43', "checksum"), ('"seed": 42}', "not JSON")):
        cells.write_text(lines[0] + lines[1].replace('"seed": 42', changed))
        found, (problem,) = read_store(tmp_path / "frozen")
        assert words in problem and len(found) == 1


def edit_score(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"score": 0.5', '"score": 0.75'))


def test_a_damaged_store_is_not_frozen(tmp_path: Path) -> None:
    edit_score(write_cell(tmp_path / "run", FULL, [1.0, 0.5]).folder)
    with pytest.raises(StoreError, match="checksum"):
        freeze(tmp_path / "run", tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()


def test_a_frozen_store_gives_the_same_report(tmp_path: Path) -> None:
    for length in (4096, 8192):
        write_cell(tmp_path / "run", FULL, [1.0, 0.5], length=length)
        write_cell(tmp_path / "run", RR, [1.0, 0.0], length=length)
    command = [sys.executable, "-m", "rr_bench.report"]
    frozen = tmp_path / "frozen"
    done = subprocess.run(
        [*command, "freeze", str(tmp_path / "run"), str(frozen)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    write_report(tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        if path.suffix in (".csv", ".md", ".png"):
            twin = frozen / path.relative_to(tmp_path / "run")
            assert twin.read_bytes() == path.read_bytes(), path.name
    assert not (frozen / "cells").exists()
