"""A frozen store goes back into one that runs (freezing itself: test_store)."""

import json
from pathlib import Path

import pytest

from rr_bench.store.freeze import freeze, thaw
from rr_bench.store.jsonl import StoreError
from tests.fabricate import FULL, RR, cells_of, open_cell, record, write_cell


def test_a_thawed_store_is_the_one_that_was_frozen_and_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_cell(run, FULL, [1.0, 0.25])
    failed = write_cell(run, RR, [1.0, None])
    failed.fail("cell", "the model did not load")
    with open_cell(run, RR, task="niah_mv") as unfinished:
        unfinished.append(record("0", 1.0, task="niah_mv"))
        unfinished.note_data({"dropped": {}})
    (failed.folder / "judged.json").write_text(json.dumps({"fluency": {"value": 0.5}}))
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
