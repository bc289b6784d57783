"""Line and file primitives of the store: torn tails, synced appends, whole-file writes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from rr_bench.store.records import RecordError, SampleRecord, read_line

log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """Something in the store cannot be used; the message names the file."""


def read_samples(path: Path, cell: str) -> tuple[list[SampleRecord], bool]:
    """Records of a ``samples.jsonl`` and whether a torn last line was left out.

    Args:
        path: the file; none is no samples.
        cell: start of the key that every line must name.

    Raises:
        RecordError: a line that is complete but corrupt, edited or another cell's, by file and line.
        StoreError: a sample scored twice.
    """
    if not path.exists():
        return [], False
    *lines, tail = path.read_bytes().split(b"\n")
    where = str(path)
    return last_records(
        (f"{where}:{number}", decoded(line, f"{where}:{number}"), cell)
        for number, line in enumerate(lines, 1)
    ), bool(tail)


def last_records(lines: Iterable[tuple[str, str, str | None]]) -> list[SampleRecord]:
    """Records of lines, given as (where, text, cell); a failed sample that was tried again counts once.

    Raises:
        RecordError: a corrupt line.
        StoreError: a sample scored twice.
    """
    records: dict[str, SampleRecord] = {}
    for where, text, cell in lines:
        _, record = read_line(text, where, cell)
        if record.uid in records and records[record.uid].error is None:
            raise StoreError(f"{where}: sample {record.uid} was scored before")
        records[record.uid] = record
    return list(records.values())


def decoded(line: bytes, where: str) -> str:
    """A line's text.

    Raises:
        RecordError: it is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{where}: not UTF-8 ({error})") from error


def read_errors(path: Path) -> list[dict[str, str]]:
    """Lines of an ``errors.jsonl`` (time, where, message); empty without a file, torn tail left out."""
    if not path.exists():
        return []
    errors = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            error = json.loads(line)
            errors.append({name: str(error[name]) for name in ("time", "where", "message")})
        except (ValueError, KeyError, TypeError) as problem:
            raise StoreError(
                f"{path}:{number}: not an error line; delete the file or the line"
            ) from problem
    return errors


def drop_torn_line(path: Path) -> None:
    """Cut a last line without a newline off the file and say so in the log."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        log.warning("%s: dropped a torn last line of %d bytes", path, len(data) - end)
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())


def append_line(file: BinaryIO, line: str) -> None:
    """Append one line to an unbuffered file and sync it; nothing stays of a line that failed."""
    data = line.encode("utf-8") + b"\n"
    start = file.seek(0, os.SEEK_END)
    try:
        if file.write(data) != len(data):
            raise OSError(f"{file.name}: short write, is the disk full?")
        os.fsync(file.fileno())
    except OSError:
        file.truncate(start)  # half a line would spoil the next one
        raise


DONE_FIELDS = ("n", "scored", "failed")


def read_done(folder: Path) -> dict[str, int] | None:
    """The DONE marker of a cell: samples asked for, scored and failed; None without one."""
    path = folder / "DONE"
    if not path.exists():
        return None
    marker = read_json(path)
    if not all(isinstance(marker.get(name), int) for name in DONE_FIELDS):
        raise StoreError(f"{path}: expected {', '.join(DONE_FIELDS)}; delete the file and run again")
    return marker


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: expected a JSON object")
    return data


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of it.

    Several processes may write the same file: each works on a partial file of its own.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
