"""A frozen store: ``cells.jsonl`` and ``samples.jsonl.gz``, which hold the lines of all cells."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from rr_bench.store.cells import SHORT
from rr_bench.store.checks import COUNT, in_range
from rr_bench.store.columns import Shared, StoredSamples, read_columns
from rr_bench.store.jsonl import ERROR_FIELDS, StoreError, decoded, last_records
from rr_bench.store.records import (
    CellInfo,
    RecordError,
    SampleRecord,
    from_json,
    json_object,
    read_line,
)
from rr_bench.store.seal import sealed, unsealed
from rr_bench.store.stored import StoredCell, checked, done_marker

FROZEN_CELLS = "cells.jsonl"
FROZEN_SAMPLES = "samples.jsonl.gz"

Numbered = list[tuple[int, bytes]]
"""Lines of the samples with their numbers."""


def read_frozen(folder: Path) -> tuple[list[StoredCell], list[str]]:
    """Cells and problems, as :func:`rr_bench.store.reading.read_store`. The lines stay in memory: a
    frozen store is small enough for a repository.
    """
    path = folder / FROZEN_SAMPLES
    by_cell: dict[bytes, Numbered] = defaultdict(list)
    for number, line in _lines(path, gzip.open):
        by_cell[_cell_named(line)].append((number, line))
    problems: list[str] = []
    shared: Shared = {}

    def samples_of(cell: str) -> Sequence[SampleRecord]:
        # Popped, so that a copied line finds no samples.
        return _frozen_samples(path, by_cell.pop(cell.encode(), []), cell, shared, problems)

    cells: dict[str, StoredCell] = {}
    for number, line in _lines(folder / FROZEN_CELLS, open):
        where = f"{folder / FROZEN_CELLS}:{number}"
        try:
            cell = _thawed(decoded(line, where), where, samples_of)
            if cell.info.key in cells:
                raise StoreError(f"{where}: a copy of {cell.info.label}")
            cells[cell.info.key] = cell
        except (RecordError, StoreError, TypeError, KeyError, ValueError) as error:
            problems.append(f"cell left out: {error}")
    for lines in by_cell.values():  # of no cell that is known
        _good_lines(path, lines, None, problems)
    return list(cells.values()), problems


_START = b'{"cell": "'


def _cell_named(line: bytes) -> bytes:
    """The cell that a line of samples names, at its start as a rule; what it holds is checked later."""
    if line.startswith(_START):
        return line[len(_START) : len(_START) + SHORT]
    try:
        return str(orjson.loads(line)["cell"]).encode()
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return b""


def _frozen_samples(
    path: Path, lines: Numbered, cell: str, shared: Shared, problems: list[str]
) -> Sequence[SampleRecord]:
    """Samples of one cell; a line that holds none is left out and named in ``problems``."""
    texts = [line for _, line in lines]
    found = read_columns(texts, cell, shared)
    if found is None:
        return last_records(_good_lines(path, lines, cell, problems))
    columns, places = found
    return StoredSamples(columns, [texts[place] for place in places], str(path))


def _good_lines(
    path: Path, lines: Numbered, cell: str | None, problems: list[str]
) -> list[tuple[str, str, str | None]]:
    good: list[tuple[str, str, str | None]] = []
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            text = decoded(line, where)
            read_line(text, where, cell)
            good.append((where, text, cell))
        except RecordError as error:
            problems.append(f"sample left out: {error}")
    return good


def _thawed(text: str, where: str, samples_of: Callable[[str], Sequence[SampleRecord]]) -> StoredCell:
    content = unsealed(json_object(text, where))
    if content is None:
        raise StoreError(f"{where}: the line does not fit its checksum; it was edited or damaged")
    if not isinstance(content.get("env"), dict):
        raise StoreError(f"{where}: env must be an object")
    info = from_json(CellInfo, json.dumps(content["info"]), where)
    samples = samples_of(info.key[:SHORT])
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
        diagnosis=content.get("diagnosis"),
    )
    return checked(cell, marker, where)


def _is_count(value: Any) -> bool:
    return type(value) is int and in_range(value, COUNT)


def _lines(path: Path, opener: Callable[..., Any]) -> Iterator[tuple[int, bytes]]:
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


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
    # Most stores have none, and keep the lines that they had before there were any.
    content |= {"diagnosis": cell.diagnosis} if cell.diagnosis else {}
    return json.dumps(sealed(content), ensure_ascii=False, allow_nan=False)
