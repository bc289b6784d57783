"""A cell's samples by column, for tables; prompts and outputs stay in their file until asked for.

A store of 10,000 cells has a million lines. Each is parsed once, and what it says is checked column by
column. Where anything is not plainly right, nothing is concluded here: the lines are then read one by
one, which finds the fault and names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from sys import intern
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from rr_bench.store.checks import (
    column_in_range,
    columns_fit,
    field_defaults,
    field_names,
    needed_fields,
)
from rr_bench.store.jsonl import StoreError, decoded
from rr_bench.store.records import RANGES, SCHEMA, RecordError, SampleRecord, read_line
from rr_bench.store.seal import CHECK, is_sealed

Shared = dict[tuple[Any, ...], tuple[Any, ...]]
"""Tuples of one reading by themselves: cells of one task and length share their samples' names."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What tables need of samples, one entry per sample in every column.

    Attributes:
        uid: identities of the samples.
        prompt_sha: hashes of their prompts.
        cluster: what each shares with others that are not independent of it.
        error: why there is no score, or None.
        kernels: that computed the attention, as text.
        scored: bool, whether there is a score.
        score: float64, 0..1; NaN without one, as the others.
        density: float64, 0..1.
        prefill_s: float64, seconds.
        decode_s: float64, seconds.
        answered: float64, 1 where an option could be read and 0 where not.
        questions: int64.
        truncated: bool.
        compiled: bool.
        by_layer: mean density of each layer over the scored samples, 0..1; None if there is none.
        labels: names of labels that samples carry.
        places: tasks and lengths that the samples say they are of.
    """

    uid: tuple[str, ...]
    prompt_sha: tuple[str, ...]
    cluster: tuple[str, ...]
    error: tuple[str | None, ...]
    kernels: tuple[str, ...]
    scored: NDArray[np.bool_]
    score: NDArray[np.float64]
    density: NDArray[np.float64]
    prefill_s: NDArray[np.float64]
    decode_s: NDArray[np.float64]
    answered: NDArray[np.float64]
    questions: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    compiled: NDArray[np.bool_]
    by_layer: NDArray[np.float64] | None
    labels: frozenset[str]
    places: frozenset[tuple[str, int]]

    def seconds(self) -> list[float]:
        """Seconds of prefill and decode of every sample during which nothing was compiled."""
        both = self.prefill_s + np.nan_to_num(self.decode_s)
        found: list[float] = both[~np.isnan(both) & ~self.compiled].tolist()
        return found


def columns_of(records: Sequence[SampleRecord], shared: Shared | None = None) -> Columns:
    """Columns of records, which have been checked."""
    values = {name: [getattr(one, name) for one in records] for name in field_names(SampleRecord)}
    return _columns(values, {} if shared is None else shared)


def _columns(values: Mapping[str, list[Any]], shared: Shared) -> Columns:
    def texts(column: Iterable[Any]) -> tuple[Any, ...]:
        found = tuple(column)
        return shared.setdefault(found, found)

    def numbers(name: str) -> NDArray[np.float64]:
        return np.array(values[name], np.float64)  # None becomes NaN

    scored = np.array([error is None for error in values["error"]], bool)
    return Columns(
        uid=texts(values["uid"]),
        prompt_sha=texts(values["prompt_sha"]),
        cluster=texts(values["cluster"]),
        error=texts(values["error"]),
        kernels=texts(intern(" + ".join(sorted(set(names)))) for names in values["kernels"]),
        scored=scored,
        score=numbers("score"),
        density=numbers("density"),
        prefill_s=numbers("prefill_s"),
        decode_s=numbers("decode_s"),
        answered=numbers("answered"),
        questions=np.array(values["questions"], np.int64),
        truncated=np.array(values["truncated"], bool),
        compiled=np.array(values["compiled"], bool),
        by_layer=_by_layer(list(compress(values["density_by_layer"], scored))),
        labels=frozenset().union(*values["labels"]),
        places=frozenset(zip(values["task"], values["length"], strict=True)),
    )


def _by_layer(densities: Sequence[list[float] | None]) -> NDArray[np.float64] | None:
    found = [one for one in densities if one]
    if not found or len(set(map(len, found))) > 1:
        return None
    return np.asarray(np.mean(np.array(found, np.float64), axis=0))


def read_columns(lines: Sequence[bytes], cell: str, shared: Shared) -> tuple[Columns, list[int]] | None:
    """Columns of lines of a ``samples.jsonl``, and the places of the lines that count: the last of
    every sample, in the order of their first.

    Args:
        lines: whole lines.
        cell: start of the key that each must name.
        shared: see :data:`Shared`.

    Returns:
        None if it takes :func:`rr_bench.store.records.read_line` to tell what the lines hold.
    """
    values = _values(lines, cell)
    if values is None:
        return None
    uids = values["uid"]
    last = {uid: place for place, uid in enumerate(uids)}
    if len(last) < len(uids):
        if any(last[uid] != i and values["error"][i] is None for i, uid in enumerate(uids)):
            return None  # scored twice
        values = {name: [column[i] for i in last.values()] for name, column in values.items()}
    return _columns(values, shared), list(last.values())


def _values(lines: Sequence[bytes], cell: str) -> dict[str, list[Any]] | None:
    """Checked values of every field; None if something may be wrong with them."""
    names, needed = field_names(SampleRecord), needed_fields(SampleRecord)
    if not lines:
        return {name: [] for name in names}
    try:
        objects = [orjson.loads(line) for line in lines if is_sealed(line)]
    except orjson.JSONDecodeError:
        return None
    alike = len(objects) == len(lines) and all(one.keys() == objects[0].keys() for one in objects)
    if not alike or any(one.get("cell") != cell for one in objects):
        return None
    fields = objects[0].keys() - {CHECK, "cell"}
    if not needed | {"schema"} <= fields <= names.keys():
        return None
    defaults = field_defaults(SampleRecord).items()
    values = {name: [one[name] for one in objects] for name in fields}
    values |= {name: [value] * len(lines) for name, value in defaults if name not in fields}
    return values if _right(values) else None


def _right(values: Mapping[str, list[Any]]) -> bool:
    """Whether columns hold what records may hold: types, ranges, schema, a score or an error."""
    failed = zip(values["score"], values["error"], strict=True)
    return (
        columns_fit(SampleRecord, values)
        and all(column_in_range(values[name], bounds) for name, bounds in RANGES.items())
        and all((score is None) != (error is None) for score, error in failed)
        and set(values["schema"]) == {SCHEMA}
    )


@dataclass(frozen=True)
class FileLines(Sequence[bytes]):
    """Lines of a file, each read when it is asked for.

    Attributes:
        path: the file.
        starts: int64, where the lines begin.
    """

    path: Path
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        with self.path.open("rb") as file:
            file.seek(int(self.starts[place]))
            return file.readline()


class StoredSamples(Sequence[SampleRecord]):
    """Checked samples: columns in memory, records read when they are asked for.

    Args:
        columns: of all of them.
        lines: their lines.
        where: the file, for error messages.
    """

    def __init__(self, columns: Columns, lines: Sequence[bytes], where: str) -> None:
        self.columns = columns
        self._lines = lines
        self._where = where

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, place: int) -> SampleRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[SampleRecord]: ...
    def __getitem__(self, place: int | slice) -> SampleRecord | list[SampleRecord]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        try:
            line = decoded(self._lines[place].rstrip(b"\n"), self._where)
            return read_line(line, self._where)[1]
        except RecordError as error:
            raise StoreError(f"{error}; it changed while it was read, try again") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
