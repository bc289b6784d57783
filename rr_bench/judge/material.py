"""What a judge needs beside stored outputs: questions, documents, key points, from HELMET's data."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rr_bench.tasks.datasets import alce, infinitebench, multi_lexsum, narrativeqa
from rr_bench.tasks.files.hub import Table, read_table, split_files
from rr_bench.tasks.files.jsonl import data_root, helmet_root, read_rows
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.settings import DataSettings

KEYPOINTS = {
    "infbench_sum": ("infbench/longbook_sum_eng_keypoints.jsonl", "keypoints"),
    "multi_lexsum": ("multi_lexsum/multi_lexsum_val.jsonl", "summary/short_keypoints"),
}


def alce_rows(name: str, indices: Collection[int], data: DataSettings) -> dict[int, dict[str, Any]]:
    """Question and all retrieved documents of some rows."""
    dataset = DATASETS[name]
    path = data_root(helmet_root(name, data)) / dataset.folder / dataset.pattern
    if not path.is_file():
        raise ValueError(f"{name}: {path} is missing")
    return {i: row for i, row in enumerate(alce.list_items(path)) if i in indices}


def questions(indices: Collection[int], data: DataSettings) -> dict[int, str]:
    """NarrativeQA's questions by row."""
    table = _table(narrativeqa.NAME, "test", narrativeqa.DEMO_FIELDS, data)
    return {i: table[i]["question"]["text"] for i in indices}


@dataclass(frozen=True)
class Expert:
    """What a summary is compared with."""

    summary: str
    keypoints: list[str]


def experts(name: str, golds: dict[int, list[str]], data: DataSettings) -> dict[int, Expert]:
    """Expert summary and key points by row.

    Args:
        name: ``infbench_sum`` or ``multi_lexsum``.
        golds: accepted answers of each row.
        data: where the data lies; as in the run.

    Raises:
        ValueError: HELMET's file of key points is missing or lacks a row.
    """
    file, field = KEYPOINTS[name]
    path = data_root(helmet_root(name, data)) / file
    if not path.is_file():
        raise ValueError(f"{name}: the key points are missing: {path}")
    points = {row["id"]: row for row in read_rows(path, ("id", field))}
    if name == "infbench_sum":
        table = _table(infinitebench.HUB_SET, infinitebench.SPLITS[name], infinitebench.FIELDS, data)
    else:
        table = _table(multi_lexsum.NAME, "validation", ("id", "summary/long"), data)
    found = {}
    for i, accepted in golds.items():
        row = table[i]
        if row["id"] not in points:
            raise ValueError(f"{path} has no key points of {row['id']!r}")
        summary = accepted[0] if name == "infbench_sum" else row["summary/long"]
        found[i] = Expert(summary, list(points[row["id"]][field]))
    return found


def _table(name: str, split: str, fields: tuple[str, ...], data: DataSettings) -> Table:
    return read_table(split_files(name, split, data), fields, fields, Notes())
