"""Line and file primitives of the store: torn tails, synced appends, whole-file writes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from rr_bench.store.checks import COUNT, in_range
from rr_bench.store.lock import machine
from rr_bench.store.records import RecordError, SampleRecord, json_object, read_line
from rr_bench.store.seal import sealed, sealed_line, sealed_text, unsealed

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
    named = (
        (f"{where}:{number}", decoded(line, f"{where}:{number}"), cell)
        for number, line in enumerate(lines, 1)
    )
    return last_records(named), bool(tail)


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


ERROR_FIELDS = ("time", "where", "message")


def error_line(error: dict[str, str]) -> str:
    """One line of ``errors.jsonl``, with a checksum."""
    return sealed_line(json.dumps(error, ensure_ascii=False))


def read_errors(path: Path) -> list[dict[str, str]]:
    """Lines of an ``errors.jsonl`` (time, where, message); empty without a file, torn tail left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_error(decoded(line, f"{path}:{n}"), f"{path}:{n}") for n, line in enumerate(lines, 1)]


def _error(text: str, where: str) -> dict[str, str]:
    inside = sealed_text(text)
    error = json_object(text if inside is None else inside, where)
    if set(error) != set(ERROR_FIELDS) or not all(isinstance(one, str) for one in error.values()):
        raise StoreError(f"{where}: not an error line, or an edited one; delete the file or the line")
    return error


def size_of(path: Path) -> int:
    """Bytes of a file, 0 without one."""
    return path.stat().st_size if path.exists() else 0


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
    """The DONE marker of a cell: samples asked for, scored and failed, and the ``bytes`` of
    ``samples.jsonl``, which markers of before this lack; None without one.
    """
    path = folder / "DONE"
    if not path.exists():
        return None
    marker = read_json(path)
    known = (*DONE_FIELDS, "bytes")
    if not set(DONE_FIELDS) <= set(marker) <= set(known) or not all(
        type(count) is int and in_range(count, COUNT) for count in marker.values()
    ):
        raise StoreError(f"{path}: expected {', '.join(DONE_FIELDS)}; delete the file and run again")
    return marker


LARGEST = 64 * 2**20
"""Bytes of a JSON file that is read."""


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object, without its checksum.

    Raises:
        StoreError: it holds something else, more than :data:`LARGEST`, or was edited.
    """
    if path.stat().st_size > LARGEST:
        raise StoreError(f"{path}: larger than {LARGEST >> 20} MiB, which is nothing that a run wrote")
    try:
        found = json_object(decoded(path.read_bytes(), str(path)), str(path))
    except RecordError as error:
        raise StoreError(str(error)) from error
    if not found:
        raise StoreError(f"{path}: an empty object, which is nothing that a run wrote")
    data = unsealed(found)
    if data is None:
        raise StoreError(f"{path}: the content does not fit its checksum; it was edited or damaged")
    return data


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that :func:`read_json` reads, with its checksum."""
    text = json.dumps(sealed(content), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of it.

    Several processes may write the same file: each works on a partial file of its own.
    """
    partial = partial_name(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def partial_name(path: Path) -> Path:
    """Where a file is written before it gets its name: machine and process are in the name."""
    own = f"{machine()}-{os.getpid()}-{uuid4().hex[:8]}"
    return path.with_name(f"{path.name}.{own}.partial")


def clean_partials(folder: Path) -> None:
    """Remove partial files of this machine's processes that were killed."""
    for path in folder.glob("*.partial"):
        where, _, process = path.name.split(".")[-2].partition("-")
        number = process.partition("-")[0]
        if where == machine() and number.isdecimal() and not _runs(int(number)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, as somebody else
    return True
