"""Logging a store to Weights & Biases: one run per store, imported only where it was asked for.

What goes there is what the report wrote: tables, figures, metrics, the frozen store as an artifact.
Nothing of the machine does: no host name, no path, no repository, no list of packages. (The files of an
offline run name the folder that the artifact's files wait in, as ``wandb sync`` needs it.)
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rr_bench.store.freeze import freeze
from rr_bench.store.reading import is_store
from rr_bench.store.wandb_note import WandbNote, note_logged, read_wandb

if TYPE_CHECKING:
    from rr_bench.report import Report

METRICS = (
    *("score", "dense_score", "recovery", "recovery_lo", "recovery_hi"),
    *("density", "prefill_s", "n", "failed"),
)
BY_LENGTH = ("recovery", "score", "density")
"""Metrics that are also logged as lines over the length, ``by_length/<task>/<metric>/<series>``."""

LENGTH = "length"
STORE = "store"
"""Type of the artifact, and start of its name."""

_PATIENCE_S = 60
_ANONYMOUS: dict[str, Any] = {
    "host": "-",
    "program": "",
    "program_relpath": "",
    "program_abspath": "",
    "x_executable": "",
    "username": "",
    "email": "",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""Settings of ``wandb`` that keep the machine out of the run."""


class WandbError(RuntimeError):
    """Weights & Biases cannot be used as asked; the message names the remedy."""


def check_wandb(mode: str, ask: bool = True) -> None:
    """Refuse a run that would end without the log it was asked for.

    Args:
        mode: ``disabled``, ``offline`` or ``online``.
        ask: whether online asks the server.

    Raises:
        WandbError: the package is not installed; online, there is no key, the server refuses it, or
            cannot be reached.
    """
    if mode == "disabled":
        return
    if find_spec("wandb") is None:
        raise WandbError(
            f"wandb.mode={mode} needs the extra `wandb`: pip install -c constraints.txt '.[wandb]'"
        )
    if mode != "online" or not ask:
        return
    import wandb

    offline = "or take wandb=offline and `wandb sync` later"
    try:
        known = wandb.login(verify=True, prompt=False)
    except wandb.errors.Error as error:
        raise WandbError(
            f"wandb.mode=online: {' '.join(str(error).split())}: mend the key or the network, {offline}"
        ) from error
    if not known:
        raise WandbError(
            f"wandb.mode=online needs a key: set WANDB_API_KEY or run `wandb login` first, {offline}"
        )


def log_report(out: str | Path, report: Report) -> str | None:
    """Log a store as the run that its ``wandb.json`` names, unless the same was logged before.

    Args:
        out: the store.
        report: what the report of the whole store wrote.

    Returns:
        A line for people; ``None`` where no run of the store asked for a log.

    Raises:
        WandbError: it did not work; nothing of the store has changed.
        StoreError: ``wandb.json`` cannot be read.
    """
    folder = Path(out)
    note = read_wandb(folder)
    if note is None:
        return None
    digest = content_digest(report.paths)
    if note.logged == digest:
        return f"wandb: run {note.id} of project {note.project} has these results already"
    check_wandb(note.mode)
    try:
        with _own_folder(folder):
            place, entity = _log(note, folder, report)
    except Exception as error:  # whatever the service or its client does, the results are stored
        raise WandbError(
            f"run {note.id} was not logged ({type(error).__name__}: {' '.join(str(error).split())}); "
            f"log it with `python -m rr_bench.report --wandb {folder}`"
        ) from error
    note_logged(folder, digest, entity)
    return f"logged to wandb: {place}"


def content_digest(paths: list[Path]) -> str:
    """Digest of the tables that a report wrote."""
    tables = sorted(path for path in paths if path.suffix == ".csv")
    texts = [f"{path.name}\n".encode() + path.read_bytes() for path in tables]
    return hashlib.sha256(b"\n".join(texts)).hexdigest()


def _log(note: WandbNote, folder: Path, report: Report) -> tuple[str, str]:
    """Where the run is, and whose it is; see :func:`log_report`."""
    import wandb

    _drop_older(folder, note.id)
    quiet = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=_PATIENCE_S,
        finish_timeout=10 * _PATIENCE_S,
        finish_timeout_raises=True,
        **_ANONYMOUS,
    )
    options: dict[str, Any] = {"project": note.project, "mode": note.mode, "id": note.id}
    options |= {"resume": "allow"} if note.mode == "online" else {}
    name = folder.resolve().name
    run = wandb.init(**options, dir=folder, name=name, config=note.config, settings=quiet)
    run.define_metric(LENGTH, hidden=True)
    run.define_metric("by_length/*", step_metric=LENGTH)
    frame = _summary(report)
    for step in length_metrics(frame):
        run.log(step)
    logged: dict[str, Any] = {}
    for path in report.paths:
        if path.suffix == ".csv":
            table = pd.read_csv(path).astype(object)
            logged[f"tables/{path.stem}"] = wandb.Table(dataframe=table.where(table.notna(), None))
        elif path.suffix == ".png":
            logged[f"figures/{path.stem}"] = wandb.Image(str(path))
    run.log(logged)
    run.summary.update(cell_metrics(frame))
    with tempfile.TemporaryDirectory() as work:
        artifact = wandb.Artifact(f"{STORE}-{note.id}", STORE)
        for file in _store_files(folder, Path(work), report):
            artifact.add_file(str(file), name=file.name)
        run.log_artifact(artifact)
        place = str(Path(run.settings.sync_dir)) if note.mode == "offline" else str(run.url)
        entity = str(run.entity or "")
        run.finish()
    return place, entity


def _summary(report: Report) -> pd.DataFrame:
    """The rows of the whole store; a report may show those of one run alone."""
    (path,) = (path for path in report.paths if path.name == "summary.csv")
    return pd.read_csv(path)


def _store_files(folder: Path, work: Path, report: Report) -> list[Path]:
    """The frozen store, and what people read first."""
    frozen = freeze(folder, work) if is_store(folder) and not report.problems else []
    return [*frozen, *(path for path in report.paths if path.suffix in (".csv", ".md", ".html"))]


def cell_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """The defined numbers of every row of the summary, by ``<task>/<length>/<series>/<column>``.

    A series tells rows of one method label apart; where there are several setups, theirs comes first.
    """
    return {
        f"{_setup(row, frame)}{row['task']}/{row['length']}/{row['series']}/{name}": float(row[name])
        for row in frame.to_dict("records")
        for name in METRICS
        if _defined(row[name])
    }


def length_metrics(frame: pd.DataFrame) -> Iterator[dict[str, float]]:
    """Per length, ascending, what its rows say: points of one line per task, metric and series."""
    for length, rows in frame.groupby(LENGTH, sort=True):
        step = {LENGTH: int(str(length))}
        found = {
            length_metric(row, frame, name): float(row[name])
            for row in rows.to_dict("records")
            for name in BY_LENGTH
            if _defined(row[name])
        }
        if found:
            yield {**step, **found}


def length_metric(row: Mapping[Any, Any], frame: pd.DataFrame, name: str) -> str:
    """Name of a row's metric over the length."""
    return f"by_length/{_setup(row, frame)}{row['task']}/{name}/{row['series']}"


def _setup(row: Mapping[Any, Any], frame: pd.DataFrame) -> str:
    return f"{row['setup']}/" if frame["setup"].nunique() > 1 else ""


def _defined(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _drop_older(folder: Path, run_id: str) -> None:
    """Remove offline files of the run that were never synced: what is logged now replaces them."""
    for older in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
        if not any(older.glob("*.synced")):
            shutil.rmtree(older)


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Let files of artifacts wait beside the run, on the store's disk, unless told otherwise."""
    name = "WANDB_DATA_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder.resolve() / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ[name]
