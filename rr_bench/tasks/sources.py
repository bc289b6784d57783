"""Which data files a task reads: part of a result's identity, known without a tokenizer."""

from __future__ import annotations

from pathlib import Path

from rr_bench.tasks import json_kv, niah

TASKS = ("json_kv", "niah_mk_2", "niah_mk_3", "niah_mv", "recall_prefill")


def source_files(task: str, length: int, helmet_dir: Path | None, haystack: Path | None) -> list[Path]:
    """Files whose content decides the rows; empty if they are generated from the seed alone.

    Raises:
        ValueError: unknown task, or no HELMET file of this length.
    """
    if task not in TASKS:
        raise ValueError(f"`tasks`: no task {task!r}; there are {', '.join(TASKS)}")
    if helmet_dir is None:
        return [haystack] if task == "niah_mv" and haystack is not None else []
    if task in niah.VARIANTS:
        return [niah.helmet_file(task, length, helmet_dir)]
    return [json_kv.helmet_file(length, helmet_dir)]
