"""``latency.csv`` and ``env.json`` of one latency experiment: what was timed, and on what.

A group is all rows of one level, model and length. It is written whole once it is measured, so a
run that was stopped keeps its finished groups and goes on with the others.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rr_bench.store.environment import merge_sessions
from rr_bench.store.jsonl import StoreError, read_json, write_whole

DONE, FAILED, MISSING = "done", "failed", "missing"
STATUSES = (DONE, FAILED, MISSING)
INPUTS = ("random", "mask", "captured", "replay")
TIME_LIMIT = "time limit"
SAME = ("device", "capability", "driver")
"""What all rows of a table share; besides these the versions of ``VERSIONED``."""
VERSIONED = ("torch", "triton", "transformers")


class TableError(StoreError):
    """A table that cannot be used, or that new times must not stand in."""


@dataclass(frozen=True)
class Row:
    """One line of the table; ``None`` is written as an empty field.

    How many times as fast as dense a row is stands in no column: reports work it out from the rows.

    Attributes:
        level: ceiling, attention, selection, both (selection and attention), host (the time to queue
            both), layer or prefill.
        model: shape's name, or the model that queries, keys and values were captured from.
        inputs: ``random``; ``mask``: random, under a random mask of the given density; ``captured``:
            of a prompt of the model; ``replay``: random, a random mask in place of the selection's.
        method: the method's label; ``full`` dense, ``mask`` no selection at all.
        backend: kernel that computed attention; of a selection the method's estimator.
        length: tokens, as asked for; captured prompts are up to some hundred shorter.
        density: share of the causal blocks that attention computes.
        median_ms: median time.
        p20_ms: 20th percentile.
        p80_ms: 80th percentile.
        n: timed calls.
        tflops: 10^12 floating-point operations of the computed token pairs per second.
        peak_extra_mib: memory allocated at most during a call, result included; a selection's
            index lists not counted, as every method has to hand these over.
        error: of the parity gate. Attention: relative error in the Euclidean norm; selection: share
            of blocks chosen otherwise than by the PyTorch twin on a short ragged prompt.
        status: done, failed (gate not passed or an exception), or missing (not there, or no time).
        reason: why there is no time.
        device: name of the device.
        gb_s: 10^9 bytes read and written per second.
    """

    level: str
    model: str
    inputs: str
    method: str
    backend: str | None
    length: int | None
    density: float | None = None
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    n: int | None = None
    tflops: float | None = None
    peak_extra_mib: float | None = None
    error: float | None = None
    status: str = ""
    reason: str | None = None
    device: str = ""
    gb_s: float | None = None

    @property
    def group(self) -> str:
        """Name of the row's group."""
        return group_name(self.level, self.model, self.length)

    @property
    def case(self) -> tuple[object, ...]:
        """What tells the row apart from every other."""
        return (
            *(self.level, self.model, self.inputs, self.method, self.backend),
            *(self.length, self.density),
        )

    def contradiction(self) -> str | None:
        """What is wrong with the row, if anything is."""
        if self.status not in STATUSES:
            return f"status is none of {', '.join(STATUSES)}"
        if self.level != "ceiling" and self.inputs not in INPUTS:
            return f"inputs={self.inputs} is none of {', '.join(INPUTS)}"
        if self.status != DONE or self.level == "ceiling":
            return None
        if not (self.median_ms or 0) > 0:
            return "done without a positive median_ms"
        if self.length is None:
            return "done without a length"
        times = [time for time in (self.p20_ms, self.median_ms, self.p80_ms) if time is not None]
        return None if times == sorted(times) else "p20_ms, median_ms and p80_ms are not in order"


COLUMNS = tuple(item.name for item in fields(Row))
_TYPES = {item.name: str(item.type).partition(" ")[0] for item in fields(Row)}
_OPTIONAL = {item.name for item in fields(Row) if "None" in str(item.type)}
TEXTS = tuple(name for name, kind in _TYPES.items() if kind == "str")
MEASURES = tuple(name for name in COLUMNS if name not in TEXTS and name not in ("length", "density"))
"""Columns of numbers that only a finished row has."""


def group_name(level: str, model: str, length: int | None) -> str:
    """Name of a group in messages and in ``env.json``."""
    return " ".join([level, *([model] if model else []), *([str(length)] if length else [])])


class Table:
    """The rows of one output folder.

    Args:
        folder: where ``latency.csv`` and ``env.json`` are or will be.
        environment: what the new rows are measured on (:func:`rr_bench.store.environment.environment`).

    Raises:
        StoreError: the folder's rows come from another device, driver or version, or are unreadable.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any]) -> None:
        self._csv, self._env = folder / "latency.csv", folder / "env.json"
        self.rows = read_rows(self._csv) if self._csv.is_file() else []
        before = read_json(self._env) if self._env.is_file() else {}
        if self.rows and not before:
            raise TableError(f"{self._csv} has no env.json beside it: use another out, or delete it")
        self._groups: dict[str, Any] = before.pop("groups", {})
        if self.rows:
            _check_same(before, environment, folder)
        self._record = merge_sessions(before, environment) if self.rows else dict(environment)
        self._code = {name: environment[name] for name in ("commit", "dirty") if name in environment}

    def done(self, group: str, settings: str) -> bool:
        """Whether a group was measured completely with the same settings and versions.

        Args:
            group: see :func:`group_name`.
            settings: hash of all that the times depend on.
        """
        known = self._groups.get(group)
        return known is not None and known["complete"] and known["settings"] == settings

    def put(self, group: str, settings: str, rows: Iterable[Row], seconds: float) -> None:
        """Write a group in place of what the table has of it; it is done if no row failed."""
        rows = list(rows)
        late = any(row.reason == TIME_LIMIT for row in rows)
        if late and any(row.group == group for row in self.rows):
            return  # times of another setting are more than none
        self.rows = [row for row in self.rows if row.group != group] + rows
        self._groups[group] = {
            "complete": not late and all(row.status != FAILED for row in rows),
            "settings": settings,
            "seconds": round(seconds, 1),
            **self._code,
        }
        self._csv.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._csv, _text(self.rows))
        record = {**self._record, "groups": self._groups}
        write_whole(self._env, json.dumps(record, indent=2) + "\n")


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to put times of two environments into one table."""
    then = {**before, **before.get("versions", {})}
    here = {**now, **now.get("versions", {})}
    for name in (*SAME, *VERSIONED):
        if then.get(name) != here.get(name):
            raise TableError(
                f"{folder} holds times measured with {name} {then.get(name)}, here it is "
                f"{here.get(name)}: set out=<another folder>, or delete it"
            )


def read_rows(path: Path) -> list[Row]:
    """Rows of a table; columns that are none of :class:`Row`'s are left out.

    Raises:
        TableError: a column is absent, a field is no number, a row contradicts itself, or a case
            stands there twice; the message names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if absent:
                raise TableError(f"{path}: column {', '.join(absent)} is absent")
            rows: list[Row] = []
            seen: set[tuple[object, ...]] = set()
            for line in reader:
                where = f"{path}: line {reader.line_num}"
                row = Row(**{name: _parse(name, line[name] or "", where) for name in COLUMNS})
                # Where the executor ran dense for a method, masks of several densities are one case.
                replaced = row.method != "full" and (row.backend or "").startswith("dense:")
                twice = row.status == DONE and row.case in seen and not replaced
                wrong = row.contradiction() or ("the case of an earlier line" if twice else None)
                if wrong:
                    raise TableError(f"{where}: {wrong}")
                seen.add(row.case)
                rows.append(row)
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: {error}") from error


def _parse(name: str, text: str, where: str) -> Any:
    if text == "":
        return None if name in _OPTIONAL else ""
    try:
        return {"str": str, "int": int, "float": float}[_TYPES[name]](text)
    except ValueError as error:
        raise TableError(f"{where}: column {name}: {error}") from error


def _text(rows: Iterable[Row]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_shown(getattr(row, name)) for name in COLUMNS] for row in rows)
    return file.getvalue()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
