"""HELMET's own files: where they lie and how their rows are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.fields import Record, check_unicode
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.settings import DataSettings


def data_root(helmet_dir: Path) -> Path:
    """The folder that holds ``ruler/`` and ``json_kv/``: ``<dir>/data`` or ``<dir>`` itself."""
    inner = helmet_dir / "data"
    return inner if inner.is_dir() else helmet_dir


def helmet_root(dataset: str, data: DataSettings) -> Path:
    """HELMET's folder, for a dataset that has no other rows.

    Raises:
        ValueError: it is not set.
    """
    root = data.path("helmet_dir")
    if root is None:
        raise ValueError(f"there are no generated rows of {dataset}: set `data.helmet_dir`")
    return root


def recall_files(data: DataSettings, find: Callable[[Path], Path]) -> list[Path]:
    """The file of a task whose rows can be generated as well; none if they are to be generated.

    Args:
        data: ``recall`` decides: ``auto`` reads the file where HELMET's folder has it.
        find: HELMET's folder to the file; raises ``ValueError`` where there is none.

    Raises:
        ValueError: there is no such folder, or ``data.recall=files`` and no file.
    """
    root = data.path("helmet_dir")
    if data.recall == "files" and root is None:
        raise ValueError("`data.recall`=files needs HELMET's folder: set `data.helmet_dir`")
    if root is None or data.recall == "generated":
        return []
    if not root.is_dir():
        raise ValueError(f"`data.helmet_dir`={root} does not exist; give an existing path or null")
    try:
        return [find(root)]
    except ValueError:
        if data.recall == "files":
            raise
        return []


def find_file(dataset: str, length: int, helmet_dir: Path, files: Mapping[int, Path]) -> Path:
    """The file of the wanted length among those that could exist.

    Raises:
        ValueError: no such file; the lengths that have one are listed.
    """
    present = {size: path for size, path in files.items() if path.is_file()}
    if length not in present:
        raise ValueError(
            f"`lengths`={length} has no {dataset} file in `data.helmet_dir`={helmet_dir}; "
            f"lengths with a file: {sorted(present) or 'none'}"
        )
    return present[length]


def scan_rows(
    path: Path,
    required: Sequence[str],
    known: Sequence[str] | None = None,
    notes: Notes | None = None,
) -> Iterator[tuple[int, Record]]:
    """Every row of a JSONL file and the byte it begins at, one at a time: files can have gigabytes.

    Args:
        path: one JSON object a line; blank lines are skipped.
        required: fields each row must have; ``a|b`` accepts either.
        known: every field of the layout; others are counted in ``notes`` and left out of the row.
        notes: where rows and unknown fields are counted.

    Raises:
        ValueError: naming file and line of a line that is no JSON object or lacks a field.
    """
    count = end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            start, end = end, end + len(line)
            if line.strip():
                yield start, check_row(_parsed(line, path, number), required, known, notes)
                count += 1
    if not count:
        raise ValueError(f"{path}: the file holds no rows")
    if notes is not None:
        notes.read(path.name, count)


def _parsed(line: bytes, path: Path, number: int) -> Record:
    where = f"{path}:{number}"
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: corrupt JSONL line ({error})") from error
    if b"\\ud" in line or b"\\uD" in line:
        check_unicode(row, where)
    return as_record(row, where)


def as_record(row: Any, where: str) -> Record:
    """A parsed row with its place.

    Raises:
        ValueError: it is no JSON object.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return Record(row, where)


def read_rows(
    path: Path,
    required: Sequence[str],
    known: Sequence[str] | None = None,
    notes: Notes | None = None,
) -> list[Record]:
    """Every row of a JSONL file; arguments and errors as in :func:`scan_rows`."""
    return [row for _, row in scan_rows(path, required, known, notes)]


def row_at(path: Path, start: int, where: str) -> Record:
    """The row that begins at a byte :func:`scan_rows` has given, with all of its fields."""
    with path.open("rb") as file:
        file.seek(start)
        return as_record(json.loads(file.readline()), where)


def check_row(
    row: Record,
    required: Sequence[str],
    known: Sequence[str] | None = None,
    notes: Notes | None = None,
) -> Record:
    """A row with the fields it needs; arguments as in :func:`scan_rows`.

    Raises:
        ValueError: it lacks a field.
    """
    missing = [field for field in required if not any(name in row for name in field.split("|"))]
    if missing:
        raise ValueError(
            f"{row.where}: unknown layout, without the fields {missing}; it has {sorted(row)}"
        )
    if known is None:
        return row
    if notes is not None:
        notes.fields(row, known)
    return Record({name: row[name] for name in known if name in row}, row.where)
