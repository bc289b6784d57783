"""The sets HELMET takes from the Hugging Face hub: local copies of them, or the hub itself.

A copy is ``<hub_dir>/<set>/<split>`` with the ending ``.jsonl``, ``.json`` (a list) or ``.parquet``,
or a folder ``<split>/`` of Parquet parts. Files are found before they are read, so that a run
knows their content's hash without a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rr_bench.tasks.files.fields import Record, check_unicode
from rr_bench.tasks.files.jsonl import as_record, check_row, data_root, read_rows
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.settings import DataSettings

CONVERTED = "refs/convert/parquet"
"""Branch on which the hub keeps every set as Parquet, those behind loading scripts too."""


@dataclass(frozen=True)
class HubSet:
    """Where the hub keeps a set.

    Attributes:
        repo: dataset repository.
        config: name of the configuration.
        splits: what HELMET reads of it.
        jsonl: the repository holds ``<split>.jsonl`` files, which are used as they are.
    """

    repo: str
    config: str
    splits: tuple[str, ...]
    jsonl: bool = False

    @property
    def revision(self) -> str:
        """Branch the files come from."""
        return "main" if self.jsonl else CONVERTED

    def pattern(self, split: str) -> str:
        """Files of one split inside the repository."""
        return f"{split}.jsonl" if self.jsonl else f"{self.config}/{split}/*.parquet"


HUB_SETS = {
    "trec": HubSet("CogComp/trec", "default", ("train", "test")),
    "banking77": HubSet("PolyAI/banking77", "default", ("train", "test")),
    "clinic150": HubSet("clinc/clinc_oos", "plus", ("train", "validation", "test")),
    "nlu": HubSet("xingkunliuxtracta/nlu_evaluation_data", "default", ("train",)),
    "narrativeqa": HubSet("deepmind/narrativeqa", "default", ("train", "test")),
    "infinitebench": HubSet(
        "xinrongzhang2022/InfiniteBench",
        "default",
        ("longbook_qa_eng", "longbook_choice_eng", "longbook_sum_eng"),
        jsonl=True,
    ),
    "multi_lexsum": HubSet("allenai/multi_lexsum", "v20230518", ("train", "validation")),
}


class Table(Protocol):
    """Rows by number; a list, or a memory-mapped dataset."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __getitem__(self, index: int, /) -> Record:
        """One row."""
        ...


@dataclass(frozen=True)
class _Parquet:
    """Rows of Parquet files, read when they are asked for."""

    rows: Any
    where: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Record:
        return Record(self.rows[index], f"{self.where}, row {index}")


def hub_root(data: DataSettings) -> Path | None:
    """Folder of the local copies: ``hub_dir``, else ``hub/`` in HELMET's folder."""
    helmet_dir, hub_dir = data.path("helmet_dir"), data.path("hub_dir")
    if hub_dir is not None or helmet_dir is None:
        return hub_dir
    inner = data_root(helmet_dir) / "hub"
    return inner if inner.is_dir() else helmet_dir / "hub"


def split_files(name: str, split: str, data: DataSettings) -> list[Path]:
    """Files of one split, in order.

    Raises:
        ValueError: there is no local copy and the hub is not allowed, or did not give one.
    """
    root = hub_root(data)
    if root is not None:
        folder = root / name
        for ending in ("jsonl", "json", "parquet"):
            if (folder / f"{split}.{ending}").is_file():
                return [folder / f"{split}.{ending}"]
        for parts in (f"{split}/*.parquet", f"{split}-*.parquet"):
            found = sorted(folder.glob(parts))
            if found:
                return found
    if not data.hub:
        raise ValueError(
            f"no copy of {name}/{split} in {root or '`data.hub_dir`'}: put {split}.jsonl, .json or "
            f".parquet into a folder {name} there, run `python -m rr_bench.download`, or set "
            "data.hub=true to fetch it"
        )
    return fetch(name, split)


def fetch(name: str, split: str, into: Path | None = None) -> list[Path]:
    """Files of one split from the hub, or from its cache.

    Args:
        name: key of :data:`HUB_SETS`.
        split: split of it.
        into: folder to put them in; None: the hub's cache.

    Raises:
        ValueError: the hub did not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    found = HUB_SETS[name]
    pattern = found.pattern(split)
    try:
        folder = Path(
            snapshot_download(
                found.repo,
                repo_type="dataset",
                revision=found.revision,
                allow_patterns=[pattern],
                local_dir=into,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"{found.repo} did not come from the hub: {type(error).__name__}") from error
    files = sorted(folder.glob(pattern))
    if not files:
        raise ValueError(f"{found.repo}@{found.revision} has no {pattern}: its layout has changed")
    return files


def read_table(
    files: Sequence[Path],
    required: Sequence[str],
    known: Sequence[str],
    notes: Notes,
    use: Sequence[str] | None = None,
) -> Table:
    """The rows of a split's files.

    Args:
        files: one JSON or JSONL file, or Parquet parts.
        required: fields each row must have.
        known: every field of the layout; others are counted in ``notes``.
        notes: where rows and unknown fields are counted.
        use: fields that are needed; only these are read from Parquet. None: all known ones.

    Raises:
        ValueError: a file does not have this layout; it is named.
    """
    path = files[0]
    if path.suffix == ".jsonl":
        return read_rows(path, required, known, notes)
    if path.suffix == ".json":
        return _read_list(path, required, known, notes)
    from datasets import Dataset
    from pyarrow.parquet import read_schema

    columns = read_schema(path).names
    check_row(Record(dict.fromkeys(columns), str(path.parent)), required, known, notes)
    wanted = [name for name in use or known if name in columns]
    table = Dataset.from_parquet([str(file) for file in files], columns=wanted)
    notes.read(f"{path.parent.name}/{path.name}", len(table))
    return _Parquet(table, str(path.parent))


def _read_list(path: Path, required: Sequence[str], known: Sequence[str], notes: Notes) -> list[Record]:
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: expected a list with rows")
    notes.read(path.name, len(rows))
    found, escaped = [], "\\ud" in text or "\\uD" in text
    for i, row in enumerate(rows):
        where = f"{path}, row {i}"
        if escaped:
            check_unicode(row, where)
        found.append(check_row(as_record(row, where), required, known, notes))
    return found
