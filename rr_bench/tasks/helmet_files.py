"""HELMET's own JSONL files: where they lie, how rows are read and which of them are used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rr_bench.tasks.notes import Notes
from rr_bench.tasks.prompt import Draft, Row, make_row
from rr_bench.tasks.selection import shuffled
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.truncation import truncate

SELECTION = 100
"""HELMET evaluates at most this many rows of a file (``max_test_samples``)."""


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
) -> Iterator[tuple[int, dict[str, Any]]]:
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
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}:{number}: corrupt JSONL line ({error})") from error
            yield start, check_row(row, f"{path}:{number}", required, known, notes)
            count += 1
    if not count:
        raise ValueError(f"{path}: the file holds no rows")
    if notes is not None:
        notes.read(path.name, count)


def read_rows(
    path: Path,
    required: Sequence[str],
    known: Sequence[str] | None = None,
    notes: Notes | None = None,
) -> list[dict[str, Any]]:
    """Every row of a JSONL file; arguments and errors as in :func:`scan_rows`."""
    return [row for _, row in scan_rows(path, required, known, notes)]


def row_at(path: Path, start: int) -> dict[str, Any]:
    """The row that begins at a byte :func:`scan_rows` has given, with all of its fields."""
    with path.open("rb") as file:
        file.seek(start)
        row: dict[str, Any] = json.loads(file.readline())
        return row


def check_row(
    row: Any,
    where: str,
    required: Sequence[str],
    known: Sequence[str] | None = None,
    notes: Notes | None = None,
) -> dict[str, Any]:
    """A row with the fields it needs; arguments as in :func:`scan_rows`.

    Raises:
        ValueError: it is no JSON object or lacks a field.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(row).__name__}")
    missing = [field for field in required if not any(name in row for name in field.split("|"))]
    if missing:
        raise ValueError(f"{where}: unknown layout, without the fields {missing}; it has {sorted(row)}")
    if known is None:
        return row
    if notes is not None:
        notes.fields(row, known)
    return {name: row[name] for name in known if name in row}


def selection(count: int, settings: Settings) -> list[int]:
    """Indices of the rows to use: HELMET's permutation, its first 100, the first ``samples``."""
    return shuffled(count, settings.seed)[: min(SELECTION, settings.samples)]


def helmet_rows(
    dataset: str,
    settings: Settings,
    path: Path,
    required: Sequence[str],
    generation: int,
    drafting: Callable[[dict[str, Any]], tuple[str, Callable[[str], Draft]]],
    known: Sequence[str],
    notes: Notes,
) -> list[Row]:
    """Rows of one file, truncated to the budget.

    Args:
        dataset: task name.
        settings: length, samples, seed, tokenizer.
        path: the JSONL file.
        required: fields a row must have.
        generation: tokens of the length kept for the answer.
        drafting: row to its context and the function from a (cut) context to the draft.
        known: every field the layout has.
        notes: where what happens to the rows is counted.

    Returns:
        Rows whose ``extra`` says whether every gold is still in the context (``gold_survived``).
    """
    raw = read_rows(path, required, known, notes)
    budget = settings.length - generation
    rows = []
    for index in selection(len(raw), settings):
        context, draft_of = drafting(raw[index])

        def render(text: str, draft_of: Callable[[str], Draft] = draft_of) -> str:
            return draft_of(text).prompt

        cut = truncate(
            settings.tokenizer, render, context, budget, strict=settings.data.strict_truncation
        )
        draft = draft_of(cut.context)
        survived = all(gold in cut.context for gold in draft.golds)
        row = make_row(
            dataset,
            settings,
            replace(draft, extra={**draft.extra, "gold_survived": survived}),
            index=index,
            source="helmet",
            input_len=cut.input_len,
            budget=budget,
            removed_tokens=cut.removed,
        )
        notes.row(row["uid"], truncated=row["truncated"], gold_survived=survived)
        rows.append(row)
    return rows
