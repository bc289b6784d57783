"""Stores as the report reads them: a running one, cell by cell, or a frozen one of two files.

Each cell has to be what it says. One whose files do not fit each other (copied, edited, shortened)
is named and left out; all others are read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rr_bench.store.cells import SHORT
from rr_bench.store.columns import FileLines, Shared, StoredSamples, read_columns
from rr_bench.store.frozen import FROZEN_CELLS, read_frozen
from rr_bench.store.jsonl import (
    StoreError,
    decoded,
    read_done,
    read_errors,
    read_json,
    read_samples,
)
from rr_bench.store.records import CellInfo, RecordError, SampleRecord, from_json
from rr_bench.store.stored import StoredCell, checked


def is_store(out: str | Path) -> bool:
    """Whether a folder holds cells, running or frozen."""
    folder = Path(out)
    return (folder / "cells").is_dir() or (folder / FROZEN_CELLS).is_file()


def read_store(out: str | Path) -> tuple[list[StoredCell], list[str]]:
    """All cells that are what they say, and one message for each that is not.

    Args:
        out: folder of the store.

    Raises:
        StoreError: there is no store at ``out``.
    """
    folder = Path(out)
    return read_frozen(folder) if (folder / FROZEN_CELLS).is_file() else _read_running(folder)


def _read_running(folder: Path) -> tuple[list[StoredCell], list[str]]:
    cells: dict[str, StoredCell] = {}
    places: dict[str, Path] = {}
    problems = []
    shared: Shared = {}
    for path in cell_folders(folder):
        try:
            cell = read_cell(path, shared)
        except (RecordError, StoreError, OSError) as error:
            problems.append(f"cell left out: {error}")
            continue
        if cell.info.key in cells:
            first = places[cell.info.key].name
            problems.append(f"cell left out: {path} is a copy of {first}; delete one of them")
            continue
        cells[cell.info.key], places[cell.info.key] = cell, path
    return list(cells.values()), problems


def cell_folders(out: str | Path) -> list[Path]:
    """Folders of the cells of a running store, sorted by name, those named by their key first.

    Raises:
        StoreError: there is no store at ``out``.
    """
    folder = Path(out) / "cells"
    if not folder.is_dir():
        raise StoreError(f"{folder} does not exist: no run has written to out={out} yet")
    found = sorted(path.parent for path in folder.glob("*/cell.json"))
    return sorted(found, key=lambda path: not _ends_in_key(path.name))


def _ends_in_key(name: str) -> bool:
    end = name.rpartition("-")[2]
    return len(end) == SHORT and all(digit in "0123456789abcdef" for digit in end)


def read_cell(folder: Path, shared: Shared | None = None) -> StoredCell:
    """Read one cell of a running store and change nothing.

    Args:
        folder: the cell's.
        shared: what cells that are read together share.

    Raises:
        RecordError: ``cell.json`` or a line of ``samples.jsonl`` does not fit the schema.
        StoreError: the cell is not what it says, or another file is unreadable.
    """
    path, files = folder / "cell.json", set(os.listdir(folder))
    info = from_json(CellInfo, decoded(path.read_bytes(), str(path)), str(path))
    samples, torn = _samples(
        folder / "samples.jsonl", info.key[:SHORT], {} if shared is None else shared
    )
    data, judged, diagnosis, env = (
        read_json(folder / name) if name in files else None
        for name in ("data.json", "judged.json", "diagnosis.json", "env.json")
    )
    marker = read_done(folder) if "DONE" in files else None
    return checked(
        StoredCell(
            info,
            env or {},
            samples,
            read_errors(folder / "errors.jsonl") if "errors.jsonl" in files else [],
            None if marker is None else marker["n"],
            torn,
            data,
            judged,
            diagnosis,
        ),
        marker,
        str(folder),
    )


def _samples(path: Path, cell: str, shared: Shared) -> tuple[Sequence[SampleRecord], bool]:
    """Samples of a ``samples.jsonl``, and whether a torn last line was left out."""
    if not path.exists():
        return [], False
    *lines, tail = path.read_bytes().split(b"\n")
    found = read_columns(lines, cell, shared)
    if found is None:
        return read_samples(path, cell)
    columns, places = found
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])[np.array(places, np.int64)]
    return StoredSamples(columns, FileLines(path, starts), str(path)), bool(tail)
