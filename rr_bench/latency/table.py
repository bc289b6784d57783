"""``latency.csv`` and ``env.json`` of one experiment: what was timed, and on what.

A group is all rows of one level, model and length. It is written whole once it is measured, so a
run that was stopped keeps its finished groups and goes on with the others.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rr_bench.store.environment import merge_sessions

DONE, FAILED, MISSING = "done", "failed", "missing"
TIME_LIMIT = "time limit"
SAME = ("device", "capability", "driver")
"""What all rows of a table share; besides these the versions of ``VERSIONED``."""
VERSIONED = ("torch", "triton", "transformers")


class TableError(ValueError):
    """The output folder holds times that the new ones must not stand beside."""


@dataclass(frozen=True)
class Row:
    """One line of the table; ``None`` is written as an empty field.

    Attributes:
        level: ceiling, attention, selection, both (selection and attention), layer or prefill.
        model: shape's name, or the model that queries, keys and values were captured from.
        inputs: ``random``; ``mask``: random, under a random mask of the given density; ``probe``:
            captured; ``replay``: random, the selection's mask exchanged for a random one.
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
        vs_dense_cudnn: time of dense attention (layer, prefill: of the dense model) by cuDNN over
            this one, same run and length.
        vs_dense_fa2: the same of FlashAttention-2.
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
    vs_dense_cudnn: float | None = None
    vs_dense_fa2: float | None = None
    error: float | None = None
    status: str = ""
    reason: str | None = None
    device: str = ""
    gb_s: float | None = None

    @property
    def group(self) -> str:
        """Name of the row's group."""
        return group_name(self.level, self.model, self.length)


COLUMNS = tuple(item.name for item in fields(Row))
_INTEGERS = ("length", "n")
_TEXTS = ("level", "model", "inputs", "method", "backend", "status", "reason", "device")


def group_name(level: str, model: str, length: int | None) -> str:
    """Name of a group in messages and in ``env.json``."""
    return " ".join([level, *([model] if model else []), *([str(length)] if length else [])])


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """Fill in how much faster than dense the rows of one group are.

    Selections get none: they are no replacement for attention.
    """
    dense = {
        row.backend: row.median_ms
        for row in rows
        if row.method == "full" and row.status == DONE and row.median_ms
    }

    def ratio(row: Row, backend: str) -> float | None:
        against = dense.get(backend)
        if against is None or row.median_ms is None or row.level in ("selection", "ceiling"):
            return None
        return against / row.median_ms

    return [
        replace(
            row,
            vs_dense_cudnn=ratio(row, "dense:cudnn"),
            vs_dense_fa2=ratio(row, "dense:fa2"),
        )
        for row in rows
    ]


class Table:
    """The rows of one output folder.

    Args:
        folder: where ``latency.csv`` and ``env.json`` are or will be.
        environment: what the new rows are measured on (:func:`rr_bench.store.environment.environment`).

    Raises:
        TableError: the folder's rows come from another device, driver or version, or are
            unreadable.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any]) -> None:
        self._csv, self._env = folder / "latency.csv", folder / "env.json"
        self.rows = read_rows(self._csv) if self._csv.is_file() else []
        before: dict[str, Any] = {}
        if self._env.is_file():
            before = json.loads(self._env.read_text(encoding="utf-8"))
        elif self.rows:
            raise TableError(f"{self._csv} has no env.json beside it: use another out, or delete it")
        self._groups: dict[str, Any] = before.pop("groups", {})
        if self.rows:
            _check_same(before, environment, folder)
        self._record = merge_sessions(before, environment) if self.rows else dict(environment)
        self._code = {name: environment[name] for name in ("commit", "dirty") if name in environment}

    def done(self, group: str, settings: str) -> bool:
        """Whether a group was measured completely with the same settings and sources.

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
        complete = not late and all(row.status != FAILED for row in rows)
        self.rows = [row for row in self.rows if row.group != group] + rows
        self._groups[group] = {
            "complete": complete,
            "settings": settings,
            "seconds": round(seconds, 1),
            **self._code,
        }
        self._csv.parent.mkdir(parents=True, exist_ok=True)
        write_rows(self._csv, self.rows)
        text = json.dumps({**self._record, "groups": self._groups}, indent=2)
        _replace_text(self._env, text + "\n")


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
    """Rows of a table.

    Raises:
        TableError: it has other columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise TableError(f"{path} has other columns than {', '.join(COLUMNS)}")
        return [Row(**{name: _parse(name, text) for name, text in line.items()}) for line in reader]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a table at once: a reader never sees a part of it."""
    part = path.with_suffix(".csv.partial")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_shown(getattr(row, name)) for name in COLUMNS])
    os.replace(part, path)


def _replace_text(path: Path, text: str) -> None:
    part = path.with_suffix(".json.partial")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _parse(name: str, text: str) -> Any:
    if text == "":
        return "" if name in ("model", "inputs", "status", "device") else None
    return text if name in _TEXTS else int(text) if name in _INTEGERS else float(text)
