"""Video-MME's questions as its files have them, made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

OPTIONS = ["A. One.", "B. Two.", "C. Three.", "D. Four."]


def question(
    video: str, stem: str, number: int, duration: str = "short", **changes: Any
) -> dict[str, Any]:
    """One row; its answer goes round the letters."""
    row = {
        "video_id": video,
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Geography",
        "url": "local",
        "videoID": stem,
        "question_id": f"{video}-{number}",
        "task_type": "Counting Problem",
        "question": f"How many things does number {number} show?",
        "options": OPTIONS,
        "answer": "ABCD"[number % 4],
    }
    return row | changes


def write_questions(path: Path, rows: Sequence[Row]) -> Path:
    """As JSONL, or as Parquet where the ending says so."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
