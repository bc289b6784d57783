"""HELMET's own JSONL files: where they lie, how rows are read and which of them are used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rr_bench.tasks.prompt import Draft, Row, Settings, make_row, truncate

SELECTION = 100
"""HELMET evaluates at most this many rows of a file (``max_test_samples``)."""


def data_root(helmet_dir: Path) -> Path:
    """The folder that holds ``ruler/`` and ``json_kv/``: ``<dir>/data`` or ``<dir>`` itself."""
    inner = helmet_dir / "data"
    return inner if inner.is_dir() else helmet_dir


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


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, Any]]:
    """Every row of a JSONL file.

    Args:
        path: one JSON object a line; blank lines are skipped.
        required: fields each row must have; ``a|b`` accepts either.

    Raises:
        ValueError: naming file and line of a line that is no JSON object or lacks a field.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number}: corrupt JSONL line ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
        missing = [field for field in required if not any(name in row for name in field.split("|"))]
        if missing:
            raise ValueError(
                f"{path}:{number}: unknown layout, without the fields {missing}; it has {sorted(row)}"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: the file holds no rows")
    return rows


def selection(count: int, settings: Settings, path: Path) -> list[int]:
    """Indices of the rows to use: HELMET's permutation, its first 100, the first ``samples``.

    ``datasets``' ``shuffle(seed)`` is NumPy's ``default_rng(seed).permutation``.

    Raises:
        ValueError: more samples than HELMET would use of this file.
    """
    available = min(SELECTION, count)
    if settings.samples > available:
        raise ValueError(
            f"`samples`={settings.samples}, but HELMET uses {available} of the {count} rows of {path}; "
            f"ask for at most {available}"
        )
    order = np.random.default_rng(settings.seed).permutation(count)
    return [int(i) for i in order[: settings.samples]]


def helmet_rows(
    dataset: str,
    settings: Settings,
    path: Path,
    required: Sequence[str],
    generation: int,
    drafting: Callable[[dict[str, Any]], tuple[str, Callable[[str], Draft]]],
) -> list[Row]:
    """Rows of one file, truncated to the budget.

    Args:
        dataset: task name.
        settings: length, samples, seed, tokenizer.
        path: the JSONL file.
        required: fields a row must have.
        generation: tokens of the length kept for the answer.
        drafting: row to its context and the function from a (cut) context to the draft.

    Returns:
        Rows whose ``extra`` says whether every gold is still in the context (``gold_survived``).
    """
    raw = read_rows(path, required)
    budget = settings.length - generation
    rows = []
    for index in selection(len(raw), settings, path):
        context, draft_of = drafting(raw[index])

        def render(text: str, draft_of: Callable[[str], Draft] = draft_of) -> str:
            return draft_of(text).prompt

        cut = truncate(settings.tokenizer, render, context, budget, strict=settings.strict)
        draft = draft_of(cut.context)
        extra = {**draft.extra, "gold_survived": all(gold in cut.context for gold in draft.golds)}
        rows.append(
            make_row(
                dataset,
                settings,
                replace(draft, extra=extra),
                index=index,
                source="helmet",
                input_len=cut.input_len,
                budget=budget,
                removed_tokens=cut.removed,
            )
        )
    return rows
