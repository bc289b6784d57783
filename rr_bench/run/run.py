"""One run: plan, score what is missing, report.

A sample or a cell that fails costs one line and the exit status; everything else finishes, and what
was stored before stays. A second run starts from what the store holds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from tqdm import tqdm

from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import Cell, Plan, make_plan
from rr_bench.plan.cost import cost_line, wanted_rows
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.report import write_report
from rr_bench.run.console import Console
from rr_bench.run.session import DeviceLost, SampleFailed, Session, describe
from rr_bench.run.wandb_log import check_wandb, log_report
from rr_bench.store.cells import CellWriter, LockError, Store, cell_key
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import is_store
from rr_bench.store.records import RecordError, SampleRecord

FAILED = 1
INTERRUPTED = 130


def run(settings: RunSettings) -> int:
    """Run everything the settings ask for.

    Returns:
        Exit status: 0, 1 if anything failed, 130 if interrupted.
    """
    console = Console()
    try:
        check_wandb(settings)
        plan = make_plan(settings)
        if not settings.dry_run:
            check_out(settings.out)
    except (CheckpointError, ConfigError, OSError) as error:
        console.error("plan", error)
        return FAILED
    for problem in plan.problems:
        console.error("plan", problem)
    store = Store(settings.out)
    pending = _find_pending(settings, plan, store, console)
    if settings.dry_run:
        return FAILED if console.errors else 0
    try:
        store.note_plan(plan.problems)
        _run_cells(settings, plan, pending, store, console)
    except KeyboardInterrupt:
        console.say("interrupted; finished samples are stored, run the same command to go on")
        return INTERRUPTED
    except OSError as error:
        console.error(f"out={settings.out}", error)
        return FAILED
    if settings.slice is None:
        _report(settings, plan, console)
    else:
        console.say(
            f"slice {settings.slice} is done; the table is for all slices together: "
            f"python -m rr_bench.report {settings.out}"
        )
    return FAILED if console.errors else 0


def check_out(out: str) -> None:
    """Make the folder of the results and see that it can be written to.

    Raises:
        ConfigError: it is no folder, or nothing can be written there.
    """
    folder = Path(out)
    probe = folder / f".{uuid4().hex}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("x", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"out={out} cannot be written to ({reason}): choose a folder with room that is yours"
        ) from error


def _find_pending(
    settings: RunSettings, plan: Plan, store: Store, console: Console
) -> list[tuple[Cell, int]]:
    """Cells with work left, and how many samples that is; prints the plan."""
    pending, lines = [], []
    model = plan.model
    for cell in plan.cells:
        try:
            writer = store.open_cell(cell.settings, cell.label, cell.info)
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
        console.say(cost_line(pending, settings.out))
    return pending


def _run_cells(
    settings: RunSettings,
    plan: Plan,
    pending: list[tuple[Cell, int]],
    store: Store,
    console: Console,
) -> None:
    """Load the model once and run the pending cells one after the other."""
    if not pending:
        return
    try:
        session = Session(settings, plan.model)
    except CheckpointError as error:
        console.error("model", error)
        return
    with tqdm(total=sum(left for _, left in pending), unit="sample", smoothing=0.1) as bar:
        for cell, left in pending:
            bar.set_description(cell.label)
            before = bar.n
            try:
                _run_cell(session, cell, store, bar.update, console)
            except DeviceLost as error:
                console.error(cell.label, error)
                return
            # What a failure left undone, or rows that the task does not have.
            bar.update(left - (bar.n - before))


def _run_cell(
    session: Session,
    cell: Cell,
    store: Store,
    update: Callable[[int], object],
    console: Console,
) -> None:
    """Run one cell and print its line, or why it could not be run."""
    writer = None
    start, scores = time.perf_counter(), []

    def progress(record: SampleRecord) -> None:
        if record.error is None:
            scores.append(record.score or 0.0)
        else:
            console.error(f"{cell.label}: sample {record.uid}", record.error)
        update(1)

    try:
        writer = session.open_cell(cell, store)
        with writer:
            session.run_cell(cell, writer, progress)
    except DeviceLost:
        raise
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = describe(error, cell.length)
        console.error(cell.label, message)
        if not isinstance(error, LockError | SampleFailed):
            _note_failure(writer, message)
        return
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
    if console.errors and not is_store(settings.out):
        return
    try:
        report = write_report(settings.out, {cell_key(cell.settings) for cell in plan.cells})
    except (RecordError, StoreError, OSError) as error:
        console.error("report", error)
        return
    written = "\n".join(f"  {path}" for path in report.paths)
    console.say(f"\n{report.table}\n\nwritten:\n{written}")
    for problem in report.problems:
        console.problem(problem)
    logged = log_report(settings, report)
    if logged is not None:
        console.say(f"logged to wandb: {logged}")
