"""Which data files a task reads: part of a result's identity, known without a model's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rr_bench.tasks import alce, icl, json_kv, kilt, lexsum, narrativeqa, niah, stories
from rr_bench.tasks.documents import tokenizer_name
from rr_bench.tasks.helmet_table import DATASETS, Dataset

TASKS = ("json_kv", "niah_mk_2", "niah_mk_3", "niah_mv", "recall_prefill")
"""Tasks whose rows can be generated; the others need HELMET's data."""


def source_files(
    task: str,
    length: int,
    helmet_dir: Path | None,
    haystack: Path | None,
    *,
    hub_dir: Path | None = None,
    hub: bool = False,
    clinic_split: str = "validation",
    llama2_tokenizer: str | None = None,
) -> list[Path]:
    """Files whose content decides the rows; empty if they are generated from the seed alone.

    Args:
        task: task name.
        length: nominal length in tokens.
        helmet_dir: HELMET's unpacked data.
        haystack: text of ``niah_mv``.
        hub_dir: local copies of the sets HELMET takes from the hub.
        hub: fetch such a set where there is no copy.
        clinic_split: CLINC150 split that is scored.
        llama2_tokenizer: folder or hub id of the tokenizer that cuts documents.

    Raises:
        ValueError: unknown task, or a file is missing.
    """
    if task in TASKS:
        return _recall_files(task, length, helmet_dir, haystack)
    if task not in DATASETS:
        names = ", ".join(dict.fromkeys([*TASKS, *DATASETS]))
        raise ValueError(f"`tasks`: no task {task!r}; there are {names}")
    dataset = DATASETS[task]
    if dataset.category == "icl":
        icl.shots_of(dataset.knobs, length, task)
        return icl.files(task, helmet_dir, hub_dir, hub, clinic_split)
    if dataset.folder:
        return _helmet_files(dataset, length, helmet_dir)
    if task == narrativeqa.NAME:
        found = narrativeqa.files(helmet_dir, hub_dir, hub)
    elif task == lexsum.NAME:
        found = lexsum.files(helmet_dir, hub_dir, hub)
    else:
        found = stories.files(task, helmet_dir, hub_dir, hub)
    return found + _tokenizer_files(tokenizer_name(helmet_dir, llama2_tokenizer))


def labelled(files: Sequence[Path]) -> dict[str, Path]:
    """Files by name, with their folder where a name occurs twice."""
    names = Counter(file.name for file in files)
    return {
        file.name if names[file.name] == 1 else f"{file.parent.name}/{file.name}": file
        for file in files
    }


def _recall_files(task: str, length: int, helmet_dir: Path | None, haystack: Path | None) -> list[Path]:
    if helmet_dir is None:
        return [haystack] if task == "niah_mv" and haystack is not None else []
    if task in niah.VARIANTS:
        return [niah.helmet_file(task, length, helmet_dir)]
    return [json_kv.helmet_file(length, helmet_dir)]


def _helmet_files(dataset: Dataset, length: int, helmet_dir: Path | None) -> list[Path]:
    if helmet_dir is None:
        raise ValueError("there are no generated rows of it: set `data.helmet_dir`")
    if dataset.category == "cite":
        return alce.files(dataset, length, helmet_dir)
    return kilt.files(dataset, length, helmet_dir)


def _tokenizer_files(name: str) -> list[Path]:
    """What decides a local tokenizer's tokens; one from the hub goes by its name in the settings."""
    folder = Path(name).expanduser()
    return [path for path in (folder / "tokenizer.json", folder / "tokenizer.model") if path.is_file()]


def switches(
    task: str,
    *,
    chat: str,
    clinic_split: str,
    document_floor: int | None,
    llama2_tokenizer: str | None,
) -> dict[str, object]:
    """The data settings that can change this task's rows, as part of a cell's identity."""
    dataset = DATASETS.get(task)
    found: dict[str, object] = {}
    if dataset is None or dataset.category == "recall":
        return found
    if dataset.chat:
        found["chat"] = chat
    if task == "icl_clinic150":
        found["clinic_split"] = clinic_split
    if dataset.category in ("longqa", "summ"):
        found["document_floor"] = document_floor
        local = llama2_tokenizer is None or Path(llama2_tokenizer).expanduser().is_dir()
        found["llama2_tokenizer"] = None if local else llama2_tokenizer
    return found
