"""Stores as the report reads them: a running one, cell by cell, or a frozen one of two files.

Each cell has to be what it says. One whose files do not fit each other (copied, edited, shortened)
is named and left out; all others are read.
"""

from __future__ import annotations

import gc
import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rr_bench.store.cells import SHORT, cell_key
from rr_bench.store.checks import COUNT, in_range
from rr_bench.store.jsonl import (
    ERROR_FIELDS,
    StoreError,
    decoded,
    last_records,
    read_done,
    read_errors,
    read_json,
    read_samples,
)
from rr_bench.store.parts import check_data, check_environment, check_judged, check_readable
from rr_bench.store.records import (
    CellInfo,
    RecordError,
    SampleRecord,
    from_json,
    json_object,
    read_line,
)
from rr_bench.store.seal import sealed, unsealed

FROZEN_CELLS = "cells.jsonl"
FROZEN_SAMPLES = "samples.jsonl.gz"


@dataclass(frozen=True)
class StoredCell:
    """One stored cell as the report reads it.

    Attributes:
        info: what was measured.
        env: on what; empty if the cell never wrote it.
        samples: last record of every sample, in order of first appearance.
        errors: lines of ``errors.jsonl``.
        done: how many samples the DONE marker vouches for, None without a marker.
        torn: whether the last line was cut short and left out.
        data: what happened to the task's data: rows read, dropped, truncated; None if unknown.
        judged: metrics a judge added, by name: ``value`` (0..1), ``uids`` it covers, ``judge``.
    """

    info: CellInfo
    env: dict[str, Any]
    samples: list[SampleRecord]
    errors: list[dict[str, str]] = field(default_factory=list)
    done: int | None = None
    torn: bool = False
    data: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None

    @cached_property
    def scored(self) -> dict[str, SampleRecord]:
        """The samples that have a score, by uid."""
        return {sample.uid: sample for sample in self.samples if sample.error is None}


def is_store(out: str | Path) -> bool:
    """Whether a folder holds cells, running or frozen."""
    folder = Path(out)
    return (folder / "cells").is_dir() or (folder / FROZEN_CELLS).is_file()


def read_store(out: str | Path, *, lean: bool = False) -> tuple[list[StoredCell], list[str]]:
    """All cells that are what they say, and one message for each that is not.

    Args:
        out: folder of the store.
        lean: keep a running store's samples small in memory, see
            :func:`rr_bench.store.records.read_line`; they can be read but not written.

    Raises:
        StoreError: there is no store at ``out``.
    """
    folder = Path(out)
    with _no_collection():
        if (folder / FROZEN_CELLS).is_file():
            return _read_frozen(folder)
        return _read_running(folder, lean)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking a million records again and again: none is garbage."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _read_running(folder: Path, lean: bool) -> tuple[list[StoredCell], list[str]]:
    cells: dict[str, StoredCell] = {}
    places: dict[str, Path] = {}
    problems = []
    for path in cell_folders(folder):
        try:
            cell = read_cell(path, lean=lean)
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


def read_cell(folder: Path, *, lean: bool = False) -> StoredCell:
    """Read one cell of a running store and change nothing; arguments as :func:`read_store`.

    Raises:
        RecordError: ``cell.json`` or a line of ``samples.jsonl`` does not fit the schema.
        StoreError: the cell is not what it says, or another file is unreadable.
    """
    path = folder / "cell.json"
    info = from_json(CellInfo, decoded(path.read_bytes(), str(path)), str(path))
    samples, torn = read_samples(folder / "samples.jsonl", info.key[:SHORT], lean=lean)
    data, judged, env = (
        read_json(folder / name) if (folder / name).exists() else None
        for name in ("data.json", "judged.json", "env.json")
    )
    marker = read_done(folder)
    return _checked(
        StoredCell(
            info,
            env or {},
            samples,
            read_errors(folder / "errors.jsonl"),
            None if marker is None else marker["n"],
            torn,
            data,
            judged,
        ),
        marker,
        str(folder),
    )


def _checked(cell: StoredCell, marker: dict[str, int] | None, where: str) -> StoredCell:
    """The cell, once its parts are known to fit each other."""
    info = cell.info
    if cell_key(info.settings) != info.key:
        raise StoreError(f"{where}: settings do not hash to the key; cell.json was edited")
    check_readable(info, where)
    check_environment(cell.env, where)
    check_data(cell.data, where)
    check_judged(cell.judged, cell.scored, where)
    for sample in cell.samples:
        if (sample.task, sample.length) != (info.task, info.length):
            raise StoreError(f"{where}: sample {sample.uid} is of {sample.task} {sample.length}")
    if marker is not None and len(cell.scored) != marker["scored"]:
        raise StoreError(
            f"{where}: {len(cell.scored)} scored samples where DONE vouches for {marker['scored']}; "
            "samples.jsonl is missing or was shortened. Run the cell again"
        )
    return cell


def done_marker(cell: StoredCell) -> dict[str, int] | None:
    """What ``DONE`` says of a cell, ``None`` if it was never finished."""
    if cell.done is None:
        return None
    scored = len(cell.scored)
    return {"n": cell.done, "scored": scored, "failed": len(cell.samples) - scored}


def frozen_line(cell: StoredCell) -> str:
    """All of a cell but its samples, as one line of ``cells.jsonl``."""
    content = {
        "info": asdict(cell.info),
        "env": cell.env,
        "errors": cell.errors,
        "done": done_marker(cell),
        "data": cell.data,
        "judged": cell.judged,
    }
    return json.dumps(sealed(content), ensure_ascii=False, allow_nan=False)


def _read_frozen(folder: Path) -> tuple[list[StoredCell], list[str]]:
    by_cell: dict[str, list[tuple[str, str, str | None]]] = defaultdict(list)
    problems: list[str] = []
    for where, text in _lines(folder / FROZEN_SAMPLES, gzip.open):
        try:
            name, _ = read_line(text, where)
        except RecordError as error:
            problems.append(f"sample left out: {error}")
            continue
        by_cell[name].append((where, text, name))
    cells: dict[str, StoredCell] = {}
    for where, text in _lines(folder / FROZEN_CELLS, open):
        try:
            cell = _thawed(text, where, by_cell)
            if cell.info.key in cells:
                raise StoreError(f"{where}: a copy of {cell.info.label}")
            cells[cell.info.key] = cell
        except (RecordError, StoreError, TypeError, KeyError, ValueError) as error:
            problems.append(f"cell left out: {error}")
    return list(cells.values()), problems


def _thawed(text: str, where: str, by_cell: dict[str, list[tuple[str, str, str | None]]]) -> StoredCell:
    content = unsealed(json_object(text, where))
    if content is None:
        raise StoreError(f"{where}: the line does not fit its checksum; it was edited or damaged")
    if not isinstance(content.get("env"), dict):
        raise StoreError(f"{where}: env must be an object")
    info = from_json(CellInfo, json.dumps(content["info"]), where)
    # Popped, so that a copied line finds no samples.
    samples = last_records(by_cell.pop(info.key[:SHORT], []))
    marker = content["done"]
    if marker is not None and not (_is_count(marker["n"]) and _is_count(marker["scored"])):
        raise StoreError(f"{where}: done must hold counts")
    cell = StoredCell(
        info,
        content["env"],
        samples,
        [{name: str(error[name]) for name in ERROR_FIELDS} for error in content["errors"]],
        None if marker is None else marker["n"],
        data=content["data"],
        judged=content["judged"],
    )
    return _checked(cell, marker, where)


def _is_count(value: Any) -> bool:
    return type(value) is int and in_range(value, COUNT)


def _lines(path: Path, opener: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", decoded(line.rstrip(b"\n"), f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
