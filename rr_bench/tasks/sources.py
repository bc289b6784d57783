"""Where a task's rows come from: part of a result's identity, known without a model's tokenizer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rr_bench import TASKS as FOLDER
from rr_bench.store.fingerprint import file_hash
from rr_bench.tasks import datasets
from rr_bench.tasks.datasets import alce, icl, infinitebench, kilt, msmarco, niah, video_mme
from rr_bench.tasks.definitions import read_definition
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.helmet_table import DATASETS
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings

TASKS = ("json_kv", "niah_mk_2", "niah_mk_3", "niah_mv", "recall_prefill")
"""Tasks whose rows can be generated; the others need HELMET's data."""

VIDEO_MME = ("videomme_short", "videomme_medium", "videomme_long")
VIDEO_TASKS = ("video_cards", "video_cards_prefill", *VIDEO_MME)
"""Tasks about videos, which the project's own loop runs: lm-eval gives a model no video."""

CATEGORIES: dict[str, ModuleType] = {
    "recall": niah,
    "rag": kilt,
    "rerank": msmarco,
    "cite": alce,
    "icl": icl,
    "longqa": infinitebench,
    "summ": infinitebench,
}
"""Module of a category's tasks, where none of :mod:`rr_bench.tasks.datasets` has the task's name."""


def module_of(task: str) -> ModuleType:
    """The module that finds a task's files, makes its rows and scores its answers.

    Raises:
        ValueError: there is no such task.
    """
    if task not in (*TASKS, *VIDEO_TASKS, *DATASETS):
        names = ", ".join(dict.fromkeys([*TASKS, *VIDEO_TASKS, *DATASETS]))
        raise ValueError(f"`tasks`: no task {task!r}; there are {names}")
    if task in VIDEO_MME:
        return video_mme
    own = f"{datasets.__name__}.{task}"
    return import_module(own) if find_spec(own) else CATEGORIES[DATASETS[task].category]


def rows_of(task: str, *, notes: Notes | None = None, **metadata: Any) -> list[Row]:
    """Rows of a task.

    Args:
        task: its name.
        notes: where what happens to the rows is counted.
        metadata: as in :class:`~rr_bench.tasks.settings.Settings`.

    Raises:
        ValueError: a setting is wrong, a file is missing or corrupt; the message names it.
    """
    settings = Settings.from_metadata(metadata)
    made: list[Row] = module_of(task).rows(task, settings, Notes() if notes is None else notes)
    return made


def source_files(task: str, length: int, data: DataSettings) -> list[Path]:
    """Files whose content decides the rows; empty if they are generated from the seed alone.

    Raises:
        ValueError: unknown task, or a file is missing.
    """
    found: list[Path] = module_of(task).files(task, length, data)
    return found


def source_of(task: str, length: int, data: DataSettings) -> str:
    """``helmet``, ``generated`` or ``video_mme``: where the rows come from.

    Raises:
        ValueError: as :func:`source_files`.
    """
    if task in VIDEO_MME:
        return "video_mme"
    if task not in (*TASKS, *VIDEO_TASKS):
        return "helmet"
    found = source_files(task, length, data)
    return "helmet" if found and found != [data.path("haystack")] else "generated"


def identity(task: str, length: int, data: DataSettings) -> dict[str, Any]:
    """Everything of the data that can change a task's rows, as JSON values.

    Returns:
        ``source``, ``files`` (name to SHA-256), and each setting of ``data`` whose ``key`` says that
        it applies to this task; one at its default is left out, so that settings added later change
        no key. Of tasks about a user's videos also ``readers``, what decodes them.

    Raises:
        ValueError: unknown task, or a file is missing.
        OSError: a file cannot be read.
    """
    source = source_of(task, length, data)
    files = labelled(source_files(task, length, data))
    switches = {
        one.name: getattr(data, one.name)
        for one in fields(DataSettings)
        if one.metadata["key"] is not None
        and one.metadata["key"](task, source)
        and getattr(data, one.name) != one.default
    }
    name = switches.get("llama2_tokenizer")
    if name is not None and Path(name).expanduser().is_dir():
        del switches["llama2_tokenizer"]  # its files say what it is
    readers = {"readers": video_mme.readers_of(data)} if task in VIDEO_MME else {}
    hashes = {name: _hash(path) for name, path in files.items()}
    return {"source": source, "files": hashes, **switches, **readers}


def versions(task: str) -> dict[str, int]:
    """Versions of what turns data into numbers: task definition, prompt builder and scorer.

    Raises:
        ValueError: there is no such task.
    """
    module, task_version = module_of(task), int(_definition(task)["metadata"]["version"])
    return {"task": task_version, "prompts": module.PROMPTS, "scorer": module.SCORER}


def decodes(task: str) -> bool:
    """Whether the model writes a task's answers; else they are graded inside the prefill.

    Tasks about videos are not among them: they have a loop of their own.
    """
    return task not in VIDEO_TASKS and _definition(task).get("output_type") != "loglikelihood"


def newline_stop(task: str, setting: bool | str, *, thinking: bool = False) -> bool:
    """Whether generation ends at a newline token.

    ``auto`` is what HELMET's configs ask for: on for RAG, ICL and re-ranking. The RRAttention authors
    ran it so; HELMET's own numbers were made without, as its code never read the configs' key. A
    thinking model (``data.thinking``) never stops there.
    """
    if thinking:  # thoughts have lines
        return False
    if setting != "auto":
        return bool(setting)
    return task in DATASETS and DATASETS[task].newline_stop


def labelled(files: Sequence[Path]) -> dict[str, Path]:
    """Files by name, with their folder where a name occurs twice."""
    names = Counter(file.name for file in files)
    return {
        file.name if names[file.name] == 1 else f"{file.parent.name}/{file.name}": file
        for file in files
    }


def _hash(path: Path) -> str:
    """SHA-256 of a file, computed once per process for every path, size and time of change."""
    stat = path.stat()
    return _hash_of(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_of(path: str, size: int, changed: int) -> str:
    return file_hash(path)


@functools.cache
def _definition(task: str) -> dict[str, Any]:
    (path,) = FOLDER.rglob(f"{task}.yaml")
    return read_definition(path)
