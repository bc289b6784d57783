"""Cells run in this process, one after the other, each with its line or its error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from tqdm import tqdm

from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import ModelFacts
from rr_bench.plan.cost import wanted_rows
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.agenda import RETRY_S, Agenda, Work
from rr_bench.run.errors import DeviceLost, SampleFailed, describe
from rr_bench.run.session import Session
from rr_bench.store.cells import CellWriter, Store
from rr_bench.store.jsonl import StoreError
from rr_bench.store.lock import LockError
from rr_bench.store.records import RecordError, SampleRecord


class Outcome(Enum):
    """How a cell left the process."""

    ENDED = "ended"
    """Done, or failed with its error told."""
    LOCKED = "locked"
    """Another process writes it."""
    LOST = "lost"
    """The device answers no more, so nothing else can run here."""


class Output(Protocol):
    """Where lines go: :class:`rr_bench.run.console.Console`, or a worker's way to it."""

    def say(self, text: str) -> None:
        """Print a line."""

    def error(self, where: str, text: object) -> None:
        """Print an error line and count it."""


def run_here(settings: RunSettings, model: ModelFacts, pending: list[Work], console: Output) -> None:
    """Load the model once and run the cells in their order; wait for those that others write."""
    session = load(settings, model, console)
    if session is None:
        return
    store, agenda, told = Store(settings.out), Agenda(pending), False
    with tqdm(total=sum(work.left for work in pending), unit="sample", smoothing=0.1) as bar:
        while len(agenda):
            work = agenda.take()
            if work is None:
                time.sleep(RETRY_S / 4)
                continue
            bar.set_description(work.cell.label)
            before = bar.n
            outcome = run_cell(session, work, store, bar.update, console)
            if outcome is Outcome.LOST:
                return
            if outcome is Outcome.LOCKED:
                agenda.put_back(work)
                if not told:
                    console.say(f"waiting for cells that another process writes: {work.cell.label}")
                told = True
                continue
            # What a failure left undone, rows that the task does not have, or what others did.
            bar.update(work.left - (bar.n - before))


def load(settings: RunSettings, model: ModelFacts, console: Output) -> Session | None:
    """The model in memory; ``None`` once the reason why not has been told."""
    try:
        return Session(settings, model)
    except (CheckpointError, RuntimeError) as error:
        console.error("model", describe(error, max(settings.lengths)))
        return None


def run_cell(
    session: Session, work: Work, store: Store, update: Callable[[int], object], console: Output
) -> Outcome:
    """Run one cell and tell its result, or why it could not be run.

    Args:
        session: the loaded model.
        work: the cell.
        store: where it is kept.
        update: called with 1 after every stored sample.
        console: where its lines go.
    """
    cell, writer = work.cell, None
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
            if writer.done(wanted_rows(cell, session.settings.samples)):
                return Outcome.ENDED  # by another process, since the plan was made
            session.run_cell(cell, writer, progress)
    except LockError:
        return Outcome.LOCKED
    except DeviceLost as error:
        console.error(cell.label, error)
        return Outcome.LOST
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        message = describe(error, cell.length)
        console.error(cell.label, message)
        if not isinstance(error, SampleFailed):
            _note_failure(writer, message)
        return Outcome.ENDED
    mean = 100 * sum(scores) / max(len(scores), 1)
    seconds = time.perf_counter() - start
    console.say(f"done: {cell.label}: score {mean:.1f} on {len(scores)} new samples, {seconds:.1f} s")
    return Outcome.ENDED


def _note_failure(writer: CellWriter | None, message: str) -> None:
    """Leave the failure of a whole cell in its folder, if the folder can be written."""
    if writer is not None:
        try:
            writer.fail("cell", message)
        except LockError:
            pass  # another process writes there now, and what it finds is what counts
        except (RecordError, StoreError, OSError) as error:
            print(f"error: {writer.folder}: {error}", file=sys.stderr)
