"""``wandb.json``: that a store's results are to be logged to Weights & Biases, where, and what was.

All processes of a sweep find the same id here, slices on other machines among them, so that a store is
one run there however often and from wherever it is logged.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from rr_bench.store.jsonl import StoreError, read_json, write_whole

FILE = "wandb.json"


@dataclass(frozen=True)
class WandbNote:
    """What the file holds.

    Attributes:
        mode: ``offline`` or ``online``.
        project: the project that the run is filed under.
        config: the settings of the last process that wanted it, no place of a machine among them.
        id: of the run.
        logged: digest of what was logged last, empty before the first time.
        entity: account or team that an online run went to, as the server named it.
    """

    mode: str
    project: str
    config: dict[str, Any]
    id: str = ""
    logged: str = ""
    entity: str = ""


def ask_for_wandb(out: str | Path, mode: str, project: str, config: dict[str, Any]) -> WandbNote:
    """Note that a store is to be logged; it keeps its id as long as it stays in one project."""
    with _locked(out):
        before = read_wandb(out)
        if before is not None and before.project == project:
            same = before.mode == mode
            note = replace(before, mode=mode, config=config, logged=before.logged if same else "")
        else:
            note = WandbNote(mode, project, config, id=uuid4().hex[:12])
        _write(out, note)
    return note


def note_logged(out: str | Path, digest: str, entity: str) -> None:
    """Note what was logged, and where it went.

    Raises:
        StoreError: nothing was to be logged.
    """
    with _locked(out):
        note = read_wandb(out)
        if note is None:
            raise StoreError(f"{out} has no {FILE}")
        _write(out, replace(note, logged=digest, entity=entity))


def read_wandb(out: str | Path) -> WandbNote | None:
    """The note of a store, ``None`` if no run of it wanted a log.

    Raises:
        StoreError: the file is not such a note.
    """
    path = Path(out) / FILE
    if not path.is_file():
        return None
    found = read_json(path)
    if found.keys() != {one.name for one in fields(WandbNote)}:
        raise StoreError(f"{path}: unknown or missing fields; delete it and run with wandb= again")
    return WandbNote(**found)


def _locked(out: str | Path) -> FileLock:
    Path(out).mkdir(parents=True, exist_ok=True)
    return FileLock(Path(out) / "LOCK", timeout=60)


def _write(out: str | Path, note: WandbNote) -> None:
    text = json.dumps(asdict(note), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(Path(out) / FILE, text + "\n")
