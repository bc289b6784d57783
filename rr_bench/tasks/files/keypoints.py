"""What HELMET's judge compares a summary with: an expert's, and the key points drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rr_bench.tasks.files.jsonl import data_root, helmet_root, read_rows
from rr_bench.tasks.settings import DataSettings


@dataclass(frozen=True)
class Expert:
    """What one summary is compared with."""

    summary: str
    keypoints: list[str]


def with_keypoints(
    name: str, file: str, field: str, summaries: Mapping[int, tuple[Any, str]], data: DataSettings
) -> dict[int, Expert]:
    """Experts' summaries with the key points in HELMET's data, by row.

    Args:
        name: the dataset.
        file: its file of key points.
        field: their field.
        summaries: id and expert's summary of each row.
        data: where the data lies; as in the run.

    Raises:
        ValueError: the file is missing or lacks a row.
    """
    path = data_root(helmet_root(name, data)) / file
    if not path.is_file():
        raise ValueError(f"{name}: the key points are missing: {path}")
    points = {row["id"]: row for row in read_rows(path, ("id", field))}
    found = {}
    for i, (uid, summary) in summaries.items():
        if uid not in points:
            raise ValueError(f"{path} has no key points of {uid!r}")
        found[i] = Expert(summary, list(points[uid][field]))
    return found
