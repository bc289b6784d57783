"""Cells of a store as one tidy frame of samples; which cells are current and which are missing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench.store.cells import Cell, cell_folders, read_cell
from rr_bench.store.jsonl import StoreError
from rr_bench.store.records import RecordError

SAMPLE_COLUMNS = (
    "cell",
    "uid",
    "prompt_sha",
    "input_tokens",
    "truncated",
    "score",
    "questions",
    "density",
    "prefill_s",
    "decode_s",
    "kernels",
    "failed",
)


@dataclass(frozen=True)
class Missing:
    """A cell that the rest of the store leads one to expect: its neighbours exist."""

    like: Cell
    """A cell of the same model and method, at another task or length."""
    task: str
    length: int


def load_cells(out: str | Path) -> tuple[list[Cell], list[str]]:
    """All readable cells, and one message for each that is not.

    Raises:
        StoreError: there is no store at ``out``.
    """
    cells, problems = [], []
    for folder in cell_folders(out):
        try:
            cells.append(read_cell(folder))
        except (RecordError, StoreError, OSError) as error:
            problems.append(f"cell left out: {error}")
    return cells, problems


def samples_frame(cells: Iterable[Cell]) -> pd.DataFrame:
    """One row per sample; ``score`` is 0..1 and NaN where the sample failed, ``cell`` is the key."""
    rows = [
        {
            "cell": cell.info.key,
            "uid": sample.uid,
            "prompt_sha": sample.prompt_sha,
            "input_tokens": sample.input_tokens,
            "truncated": sample.truncated,
            "score": sample.score,
            "questions": sample.questions,
            "density": sample.density,
            "prefill_s": None if sample.compiled else sample.prefill_s,
            "decode_s": sample.decode_s,
            "kernels": " + ".join(sorted(set(sample.kernels))),
            "failed": sample.error is not None,
        }
        for cell in cells
        for sample in cell.samples
    ]
    frame = pd.DataFrame(rows, columns=list(SAMPLE_COLUMNS))
    types: dict[str, Any] = dict.fromkeys(("score", "density", "prefill_s", "decode_s"), float)
    return frame.astype(types | dict.fromkeys(("truncated", "failed"), bool))


def keep_name(keep: dict[str, Any]) -> str:
    """Short name of a keep policy: its own ``name``, else the parts that are on."""
    if keep.get("name"):
        return str(keep["name"])
    return "+".join(name for name, on in keep.items() if on) or "none"


def setup(cell: Cell) -> tuple[Any, ...]:
    """What a row of the tables is told apart by, besides method, task and length."""
    info = cell.info
    device = cell.env.get("device", "unknown")
    return info.model["name"], info.model["path"], info.model["dtype"], device, info.seed, info.source


def method_of(cell: Cell) -> tuple[str, str]:
    """Method label and keep policy; the dense baseline has no use for a policy."""
    method = cell.info.method
    return method["label"], "–" if method["dense"] else keep_name(method["keep"])


def current(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Split cells into the latest of each setup, method, task and length, and those they replaced.

    A cell is replaced when the code, a version or the model changed: the same row, another key.
    """
    latest: dict[tuple[Any, ...], Cell] = {}
    for cell in sorted(cells, key=lambda c: (str(c.env.get("time", "")), c.info.key)):
        latest[(*setup(cell), *method_of(cell), cell.info.task, cell.info.length)] = cell
    kept = {cell.info.key for cell in latest.values()}
    return list(latest.values()), [cell for cell in cells if cell.info.key not in kept]


def missing(cells: Sequence[Cell]) -> list[Missing]:
    """Holes in every setup: lengths of a task at which a method that has the task was not measured.

    A setting measured at less than half of the lengths is expected at no other if its method has other
    settings: it was chosen for where it was measured, by calibration for example.
    """
    holes = []
    for one in dict.fromkeys(setup(cell) for cell in cells):
        group = [cell for cell in cells if setup(cell) == one]
        lengths: dict[str, set[int]] = defaultdict(set)
        measured: dict[tuple[str, str], dict[str, dict[int, Cell]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for cell in group:
            lengths[cell.info.task].add(cell.info.length)
            measured[method_of(cell)][cell.info.task][cell.info.length] = cell
        families = Counter(label.partition("(")[0] for label, _ in measured)
        for (label, _), tasks in measured.items():
            expected = sum(len(lengths[task]) for task in tasks)
            few = 2 * sum(map(len, tasks.values())) < expected
            if few and families[label.partition("(")[0]] > 1:
                continue
            for task, cells_of in tasks.items():
                like = next(iter(cells_of.values()))
                absent = sorted(lengths[task] - cells_of.keys())
                holes += [Missing(like, task, length) for length in absent]
    return holes


def natural(label: str) -> list[tuple[int, float, str]]:
    """Sort key that puts 8 before 16."""
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", label)
    return [(1, float(part), "") if part[0].isdigit() else (0, 0.0, part) for part in parts]
