"""The store: one folder per cell, one line per sample, written so that a kill loses one sample.

``<out>/cells/<label>-<key[:12]>/`` holds ``cell.json`` (what was measured), ``env.json`` (on what),
``samples.jsonl`` (one line per sample, flushed and synced), ``errors.jsonl`` (only if something
failed) and ``DONE`` (written last). The folder is found again by the key, a hash of every setting
that can change the numbers; the label is for people.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from rr_bench.store.diagnosis import check_diagnosis
from rr_bench.store.environment import merge_sessions
from rr_bench.store.jsonl import (
    StoreError,
    append_line,
    clean_partials,
    decoded,
    drop_torn_line,
    error_line,
    read_done,
    read_json,
    read_samples,
    size_of,
    write_json,
    write_whole,
)
from rr_bench.store.lock import CellLock, Seen
from rr_bench.store.records import CellInfo, SampleRecord, from_json, sample_line, to_json
from rr_bench.store.redact import redact

SHORT = 12
"""Digits of a key that name a cell in folders, lines and tables."""


def cell_key(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as canonical JSON (sorted keys, no spaces)."""
    try:
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"settings of a cell must be plain JSON values: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """All cells of one output folder.

    Args:
        out: the folder; made when the first cell is written.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        cells = self.out / "cells"
        folders = sorted(cells.iterdir(), reverse=True) if cells.is_dir() else []
        # Listed once: a plan opens thousands of cells.
        self._known = {folder.name[-SHORT:]: folder for folder in folders}
        self._seen: Seen = {}

    def open_cell(
        self,
        settings: Mapping[str, Any],
        label: str,
        info: Mapping[str, Any],
        env: Mapping[str, Any] | None = None,
    ) -> CellWriter:
        """The cell of these settings, found again or new. Touches no file yet.

        Args:
            settings: everything that can change the numbers, as plain JSON values.
            label: readable name of the cell.
            info: the fields ``model`` and ``method`` of :class:`CellInfo`.
            env: the environment, written as ``env.json`` when the cell is entered.

        Raises:
            RecordError: ``info`` or ``settings`` lack something or hold what is ill-typed.
        """
        key = cell_key(settings)
        cell = CellInfo(key=key, label=label, settings=dict(settings), **info)
        folder = self._known.get(key[:SHORT], self.out / "cells" / folder_name(label, key))
        return CellWriter(folder, cell, env, self._seen)

    def note_plan(self, problems: Sequence[str]) -> None:
        """Keep what the last run could not plan, such as a missing file, as ``problems.json``."""
        self.out.mkdir(parents=True, exist_ok=True)
        lines = [redact(problem) for problem in problems]
        write_json(self.out / "problems.json", {"problems": lines})


def folder_name(label: str, key: str) -> str:
    """The name of a cell's folder: its label made fit for a file system, and the start of its key."""
    name = re.sub(r"[^A-Za-z0-9._=-]+", "_", label).strip("_")
    return f"{name[:160]}-{key[:SHORT]}"


class CellWriter:
    """Writes one cell. ``done`` and ``finished`` only read; append inside ``with cell:``.

    Attributes:
        folder: where the cell lives.
        info: what it measures.
    """

    def __init__(
        self,
        folder: Path,
        info: CellInfo,
        env: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
    ) -> None:
        self.folder = folder
        self.info = info
        self._env = env
        self._lock = CellLock(folder, {} if seen is None else seen)
        self._file: BinaryIO | None = None
        self._records: dict[str, SampleRecord] | None = None

    @property
    def records(self) -> dict[str, SampleRecord]:
        """The last record of every sample tried, by uid."""
        if self._records is None:
            samples, _ = read_samples(self.folder / "samples.jsonl", self.info.key[:SHORT])
            self._records = {sample.uid: sample for sample in samples}
        return self._records

    @property
    def finished(self) -> dict[str, SampleRecord]:
        """Scored samples by uid. Failed ones are not among them, so that a restart tries again."""
        return {uid: sample for uid, sample in self.records.items() if sample.error is None}

    def done(self, n: int) -> bool:
        """Whether the first ``n`` samples are scored: the marker says so and the lines are there.

        A ``samples.jsonl`` of the size that the marker names is not read: a plan asks thousands of
        cells, and the report checks every line.
        """
        marker = read_done(self.folder)
        if marker is None or marker["n"] < n or marker["failed"]:
            return False
        if marker.get("bytes") == size_of(self.folder / "samples.jsonl"):
            return True
        return len(self.finished) >= marker["scored"]

    def __enter__(self) -> CellWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            clean_partials(self.folder)
            self._write_info()
            if self._env is not None:
                self._write_environment(self._env)
            path = self.folder / "samples.jsonl"
            drop_torn_line(path)
            self._records = None
            self.records  # noqa: B018  (a corrupt line must stop the cell before it is written to)
            self._file = path.open("ab", buffering=0)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    def append(self, record: SampleRecord) -> None:
        """Write one sample: one line, flushed and synced before this returns.

        Raises:
            StoreError: outside ``with``, a sample of another cell, one that is finished already, or the
            folder is not this process's any more.
        """
        if self._file is None:
            raise StoreError(f"{self.folder.name}: append needs `with cell:` around it")
        if (record.task, record.length) != (self.info.task, self.info.length):
            raise StoreError(
                f"sample {record.uid} of {record.task}/{record.length} is not of {self.info.label}"
            )
        before = self.records.get(record.uid)
        if before is not None and before.error is None:
            raise StoreError(f"{self.folder.name}: sample {record.uid} is finished already")
        if not self._lock.held:
            raise StoreError(f"{self.folder} was deleted or taken over while this cell ran")
        if record.error is not None:
            record = replace(record, error=redact(record.error))
        append_line(self._file, sample_line(record, self.info.key[:SHORT]))
        self.records[record.uid] = record

    def fail(self, where: str, message: str) -> None:
        """Note a failure of the cell in ``errors.jsonl``; outside ``with`` it locks the cell for that.

        Args:
            where: a stage such as "load model".
            message: the error in one line; absolute paths are shortened.

        Raises:
            LockError: another process is writing this cell, so nothing was noted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if self._file is not None else _Locked(self):
            if not (self.folder / "cell.json").exists():
                self._write_info()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = error_line({"time": now, "where": where, "message": redact(message)})
            path = self.folder / "errors.jsonl"
            drop_torn_line(path)
            with path.open("ab", buffering=0) as file:
                append_line(file, line)

    def finish(self, n: int) -> None:
        """Mark the first ``n`` samples as tried; how many of them failed stands in the marker."""
        scored = len(self.finished)
        marker = {"n": n, "scored": scored, "failed": len(self.records) - scored}
        write_json(self.folder / "DONE", marker | {"bytes": size_of(self.folder / "samples.jsonl")})

    def note_data(self, notes: Mapping[str, Any]) -> None:
        """Keep what happened to the task's data on the way to its rows, as ``data.json``."""
        write_json(self.folder / "data.json", notes)

    def note_diagnosis(self, tables: Mapping[str, Any]) -> None:
        """Keep what :mod:`rr_bench.store.diagnosis` describes, as ``diagnosis.json``."""
        check_diagnosis(tables, self.folder.name)
        write_json(self.folder / "diagnosis.json", tables)

    @property
    def diagnosis(self) -> dict[str, Any] | None:
        """The cell's ``diagnosis.json``, None without one."""
        path = self.folder / "diagnosis.json"
        found = read_json(path) if path.exists() else None
        check_diagnosis(found, self.folder.name)
        return found

    def _write_info(self) -> None:
        path = self.folder / "cell.json"
        if not path.exists():
            write_whole(path, to_json(self.info, indent=1) + "\n")
            return
        key = from_json(CellInfo, decoded(path.read_bytes(), str(path)), str(path)).key
        if key != self.info.key:
            raise StoreError(f"{path} belongs to cell {key}, not {self.info.key}; move the folder away")

    def _write_environment(self, env: Mapping[str, Any]) -> None:
        path = self.folder / "env.json"
        merged = merge_sessions(read_json(path), env) if path.exists() else dict(env)
        write_json(path, merged)


class _Locked:
    """A cell's lock for the length of one note."""

    def __init__(self, cell: CellWriter) -> None:
        self._cell = cell

    def __enter__(self) -> None:
        self._cell._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._cell._lock.release()
