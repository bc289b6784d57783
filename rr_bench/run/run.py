"""One run: plan, score what is missing, report.

A cell that fails costs one line and the exit status; the other cells finish, and everything that
was stored before stays. A second run starts from what the store holds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from rr_bench.config.schema import ConfigError, RunSettings
from rr_bench.plan.cells import Cell, Plan, make_plan
from rr_bench.plan.cost import describe as cost_line
from rr_bench.plan.cost import estimate, known_times, wanted_rows
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.wandb_log import check_wandb, log_report
from rr_bench.store.cells import CellWriter, Store, StoreError, cell_key
from rr_bench.store.lock import LockError
from rr_bench.store.records import RecordError, SampleRecord
from rr_bench.store.redact import redact

if TYPE_CHECKING:
    from rr_bench.run.session import Session

INTERRUPTED = 130


class Console:
    """Lines for people, printed around the progress bar; counts the errors."""

    def __init__(self) -> None:
        self.errors = 0
        self._shown: list[str] = []

    def say(self, text: str) -> None:
        """Print to standard output."""
        with tqdm.external_write_mode():
            print(text, flush=True)

    def error(self, where: str, text: object) -> None:
        """Print one error line and remember that there was one."""
        self.errors += 1
        line = " ".join(str(text).split())
        self._shown.append(redact(line))
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"error: {where}: {line}", file=sys.stderr, flush=True)

    def problem(self, text: str) -> None:
        """Print what the report had to leave out, unless it was an error before; counts as one."""
        self.errors += 1
        if any(shown in redact(text) for shown in self._shown):
            return
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"problem: {text}", file=sys.stderr, flush=True)


def run(settings: RunSettings) -> int:
    """Run everything the settings ask for.

    Returns:
        Exit status: 0, 1 if anything failed, 130 if interrupted.
    """
    console = Console()
    try:
        check_wandb(settings)
        plan = make_plan(settings)
    except (CheckpointError, ConfigError, OSError) as error:
        console.error("plan", error)
        return 1
    for problem in plan.problems:
        console.error("plan", problem)
    pending = _find_pending(settings, plan, Store(settings.out), console)
    if settings.dry_run:
        return 1 if console.errors else 0
    Store(settings.out).note_plan(plan.problems)
    try:
        _run_cells(settings, plan, pending, console)
    except KeyboardInterrupt:
        console.say("interrupted; finished samples are stored, run the same command to go on")
        return INTERRUPTED
    if settings.slice is None:
        _report(settings, plan, console)
    else:
        console.say(
            f"slice {settings.slice} is done; the table is for all slices together: "
            f"python -m rr_bench.report {settings.out}"
        )
    return 1 if console.errors else 0


def _find_pending(
    settings: RunSettings, plan: Plan, store: Store, console: Console
) -> list[tuple[Cell, int]]:
    """Cells with work left, and how many samples that is; prints the plan."""
    pending, lines = [], []
    model = plan.model
    for cell in plan.cells:
        try:
            writer = store.open_cell(cell.settings, cell.label, cell.info())
            have = len(writer.finished)
            wanted = wanted_rows(cell, settings.samples)
            done = writer.done(wanted)
        except (RecordError, StoreError, OSError) as error:
            console.error(cell.label, error)
            lines.append(f"  unreadable  {cell.label}")
            continue
        left = 0 if done else max(wanted - have, 0)
        state = "done" if done else f"{have}/{wanted}"
        lines.append(f"  {state:>10}  {cell.label}")
        if not done:
            pending.append((cell, left))
    console.say(f"model {model.name} ({model.path}), {model.dtype} on {model.device.name}")
    console.say("\n".join([f"{len(plan.cells)} cells, {len(pending)} with work left:", *lines]))
    if pending:
        console.say(cost_line(estimate(pending, known_times(settings.out, model.name))))
    return pending


def _run_cells(
    settings: RunSettings, plan: Plan, pending: list[tuple[Cell, int]], console: Console
) -> None:
    """Load the model once and run the pending cells one after the other."""
    if not pending:
        return
    # Imported here so that a run with nothing left to do starts without torch.
    from rr_bench.run.session import SampleFailed, Session, describe

    store = Store(settings.out)
    try:
        session = Session(settings, plan.model)
    except CheckpointError as error:
        console.error("model", error)
        return
    with tqdm(total=sum(left for _, left in pending), unit="sample", smoothing=0.1) as bar:
        for cell, left in pending:
            bar.set_description(cell.label)
            before = bar.n
            writer = None
            try:
                writer = session.open_cell(cell, store)
                _run_cell(session, cell, writer, bar.update, console)
            except Exception as error:
                if os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                message = describe(error, cell.length)
                console.error(cell.label, message)
                if not isinstance(error, SampleFailed | LockError):
                    _note_failure(writer, message)
            # What a failure left undone, or rows that the task does not have.
            bar.update(left - (bar.n - before))


def _run_cell(
    session: Session,
    cell: Cell,
    writer: CellWriter,
    update: Callable[[int], object],
    console: Console,
) -> None:
    """Run one cell and print its line."""
    start, scores = time.perf_counter(), []

    def progress(record: SampleRecord) -> None:
        scores.append(record.score or 0.0)
        update(1)

    with writer:
        session.run_cell(cell, writer, progress)
    mean = 100 * sum(scores) / max(len(scores), 1)
    seconds = time.perf_counter() - start
    console.say(f"done: {cell.label}: score {mean:.1f} on {len(scores)} new samples, {seconds:.1f} s")


def _note_failure(writer: CellWriter | None, message: str) -> None:
    """Leave the failure of a whole cell in its folder, if the folder can be written."""
    if writer is not None:
        try:
            writer.fail("cell", message)
        except LockError:
            pass  # another process writes there now, and what it finds is what counts
        except (RecordError, StoreError, OSError) as error:
            print(f"error: {writer.folder}: {error}", file=sys.stderr)


def _report(settings: RunSettings, plan: Plan, console: Console) -> None:
    """Write tables and figures from the whole store, and print this run's rows."""
    if console.errors and not (Path(settings.out) / "cells").is_dir():
        return
    from rr_bench.report import write_report

    try:
        report = write_report(settings.out, {cell_key(cell.settings) for cell in plan.cells})
    except (RecordError, StoreError) as error:
        console.error("report", error)
        return
    written = "\n".join(f"  {path}" for path in report.paths)
    console.say(f"\n{report.table}\n\nwritten:\n{written}")
    for problem in report.problems:
        console.problem(problem)
    logged = log_report(settings, report)
    if logged is not None:
        console.say(f"logged to wandb: {logged}")
