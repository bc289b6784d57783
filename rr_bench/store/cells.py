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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from rr_bench.store.environment import merge_sessions
from rr_bench.store.jsonl import (
    StoreError,
    append_line,
    drop_torn_line,
    read_done,
    read_errors,
    read_json,
    read_samples,
    write_whole,
)
from rr_bench.store.lock import FileLock
from rr_bench.store.records import CellInfo, SampleRecord, from_json, to_json
from rr_bench.store.redact import redact


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
            info: the fields of :class:`CellInfo` other than key, label and settings.
            env: the environment, written as ``env.json`` when the cell is entered.

        Raises:
            RecordError: ``info`` lacks a field or holds an unknown or ill-typed one.
        """
        key = cell_key(settings)
        data = {**info, "key": key, "label": label, "settings": dict(settings), "schema": 1}
        cell = from_json(CellInfo, json.dumps(data), f"cell {label}")
        known = sorted((self.out / "cells").glob(f"*-{key[:12]}"))
        name = re.sub(r"[^A-Za-z0-9._=-]+", "_", label).strip("_")
        return CellWriter(known[0] if known else self.out / "cells" / f"{name}-{key[:12]}", cell, env)

    def note_plan(self, problems: Sequence[str]) -> None:
        """Keep what the last run could not plan, such as a missing file, as ``problems.json``."""
        self.out.mkdir(parents=True, exist_ok=True)
        lines = [redact(problem) for problem in problems]
        write_whole(self.out / "problems.json", json.dumps({"problems": lines}, indent=1) + "\n")


class CellWriter:
    """Writes one cell. ``done`` and ``finished`` only read; append inside ``with cell:``.

    Attributes:
        folder: where the cell lives.
        info: what it measures.
    """

    def __init__(self, folder: Path, info: CellInfo, env: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.info = info
        self._env = env
        self._lock = FileLock(folder / "LOCK")
        self._file: BinaryIO | None = None
        self._finished: dict[str, SampleRecord] | None = None
        self._failures = 0

    @property
    def finished(self) -> dict[str, SampleRecord]:
        """Scored samples by uid. Failed ones are not among them, so that a restart tries again."""
        if self._finished is None:
            samples, _ = read_samples(self.folder / "samples.jsonl")
            self._finished = {s.uid: s for s in samples if s.error is None}
        return self._finished

    def done(self, n: int) -> bool:
        """Whether the first ``n`` samples were finished: reads the marker and the lines behind it."""
        marker = read_done(self.folder)
        return marker is not None and marker["n"] >= n and len(self.finished) >= marker["scored"]

    def __enter__(self) -> CellWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            self._write_info()
            if self._env is not None:
                self._write_environment(self._env)
            path = self.folder / "samples.jsonl"
            drop_torn_line(path)
            self._finished = None
            self._failures = 0
            self.finished  # noqa: B018  (a corrupt line must stop the cell before it is written to)
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
            StoreError: outside ``with``, a sample of another cell, or one that is finished already.
        """
        if self._file is None:
            raise StoreError(f"{self.folder.name}: append needs `with cell:` around it")
        if (record.task, record.length) != (self.info.task, self.info.length):
            raise StoreError(
                f"sample {record.uid} of {record.task}/{record.length} is not of {self.info.label}"
            )
        if record.uid in self.finished:
            raise StoreError(f"{self.folder.name}: sample {record.uid} is finished already")
        if record.error is None:
            append_line(self._file, to_json(record))
            self.finished[record.uid] = record
        else:
            append_line(self._file, to_json(replace(record, error=redact(record.error))))
            self._failures += 1

    def fail(self, where: str, message: str) -> None:
        """Note a failure of the cell in ``errors.jsonl``; outside ``with`` it locks the cell for that.

        Args:
            where: sample uid, or a stage such as "load model".
            message: the error in one line; absolute paths are shortened.

        Raises:
            LockError: another process is writing this cell, so nothing was noted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with nullcontext() if self._file is not None else self._lock:
            if not (self.folder / "cell.json").exists():
                self._write_info()
            self._failures += 1
            now = datetime.now(UTC).isoformat(timespec="seconds")
            line = {"time": now, "where": where, "message": redact(message)}
            path = self.folder / "errors.jsonl"
            drop_torn_line(path)
            with path.open("ab", buffering=0) as file:
                append_line(file, json.dumps(line, ensure_ascii=False))

    def finish(self, n: int) -> None:
        """Mark the first ``n`` samples as done. Refused if anything failed since ``with``."""
        if self._failures:
            raise StoreError(f"{self.folder.name}: {self._failures} failure(s), not done; run it again")
        write_whole(self.folder / "DONE", json.dumps({"n": n, "scored": len(self.finished)}) + "\n")

    def note_data(self, notes: Mapping[str, Any]) -> None:
        """Keep what happened to the task's data on the way to its rows, as ``data.json``."""
        text = json.dumps(notes, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(self.folder / "data.json", text + "\n")

    def _write_info(self) -> None:
        path = self.folder / "cell.json"
        if not path.exists():
            write_whole(path, to_json(self.info, indent=1) + "\n")
            return
        key = from_json(CellInfo, path.read_text(encoding="utf-8"), str(path)).key
        if key != self.info.key:
            raise StoreError(f"{path} belongs to cell {key}, not {self.info.key}; move the folder away")

    def _write_environment(self, env: Mapping[str, Any]) -> None:
        path = self.folder / "env.json"
        merged = merge_sessions(read_json(path), env) if path.exists() else dict(env)
        write_whole(path, json.dumps(merged, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Cell:
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
    errors: list[dict[str, str]]
    done: int | None
    torn: bool
    data: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None


def cell_folders(out: str | Path) -> list[Path]:
    """Folders of the cells under ``out``, sorted by name.

    Raises:
        StoreError: there is no store at ``out``.
    """
    folder = Path(out) / "cells"
    if not folder.is_dir():
        raise StoreError(f"{folder} does not exist: no run has written to out={out} yet")
    return sorted(path.parent for path in folder.glob("*/cell.json"))


def read_cells(out: str | Path) -> list[Cell]:
    """All cells under ``out``; the first unreadable one raises."""
    return [read_cell(folder) for folder in cell_folders(out)]


def read_cell(folder: Path) -> Cell:
    """Read one cell and change nothing.

    Raises:
        RecordError: ``cell.json`` or a line of ``samples.jsonl`` does not fit the schema.
        StoreError: the settings do not hash to the key, or another file is unreadable.
    """
    path = folder / "cell.json"
    info = from_json(CellInfo, path.read_text(encoding="utf-8"), str(path))
    if cell_key(info.settings) != info.key:
        raise StoreError(f"{path}: settings do not hash to the key; the file was edited")
    samples, torn = read_samples(folder / "samples.jsonl")
    env = read_json(folder / "env.json") if (folder / "env.json").exists() else {}
    errors = read_errors(folder / "errors.jsonl")
    marker = read_done(folder)
    data, judged = (
        read_json(folder / name) if (folder / name).exists() else None
        for name in ("data.json", "judged.json")
    )
    done = None if marker is None else marker["n"]
    return Cell(info, env, samples, errors, done, torn, data, judged)
