"""One run: plan, score what is missing, report.

A sample or a cell that fails costs one line and the exit status; everything else finishes, and what
was stored before stays. A second run starts from what the store holds.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import Plan, make_plan
from rr_bench.plan.cost import cost_line, wanted_rows
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.report import Report, write_report
from rr_bench.report.wandb_log import WandbError, check_wandb, log_report
from rr_bench.run.agenda import Work
from rr_bench.run.console import Console
from rr_bench.run.status import FAILED, INTERRUPTED, STOPPED
from rr_bench.run.work import run_here
from rr_bench.run.workers import run_workers
from rr_bench.store.cells import Store, cell_key
from rr_bench.store.jsonl import StoreError, clean_partials, partial_name
from rr_bench.store.reading import is_store
from rr_bench.store.records import RecordError
from rr_bench.store.redact import redacted
from rr_bench.store.wandb_note import ask_for_wandb


def run(settings: RunSettings) -> int:
    """Run everything the settings ask for.

    Returns:
        Exit status: 0, 1 if anything failed, 130 if interrupted.
    """
    console = Console()
    try:
        # A part of the cells logs nothing itself, so its node needs no network.
        check_wandb(settings.wandb.mode, ask=settings.whole)
        plan = make_plan(settings)
        if not settings.dry_run:
            check_out(settings.out)
            _note_wandb(settings)
    except (CheckpointError, ConfigError, StoreError, WandbError, OSError) as error:
        console.error("plan", error)
        return FAILED
    for problem in plan.problems:
        console.error("plan", problem)
    store = Store(settings.out)
    pending = find_pending(settings, plan, store, console)
    if settings.dry_run:
        return FAILED if console.errors else 0
    try:
        if settings.cells is None:
            store.note_plan(plan.problems)
        if pending:
            start = run_workers if settings.workers > 1 else run_here
            start(settings, plan.model, pending, console)
    except CheckpointError as error:
        console.error("workers", error)
        return FAILED
    except KeyboardInterrupt:
        console.say(STOPPED)
        return INTERRUPTED
    except OSError as error:
        console.error(f"out={settings.out}", error)
        return FAILED
    if settings.whole:
        _report(settings, plan, console)
    else:
        part = "the cells asked for are" if settings.slice is None else f"slice {settings.slice} is"
        wandb = "" if settings.wandb.mode == "disabled" else "--wandb "
        console.say(
            f"{part} done; the table is for all together: "
            f"python -m rr_bench.report {wandb}{settings.out}"
        )
    return FAILED if console.errors else 0


def check_out(out: str) -> None:
    """Make the folder of the results and see that it can be written to.

    Raises:
        ConfigError: it is no folder, or nothing can be written there.
    """
    folder = Path(out)
    probe = partial_name(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("x", encoding="utf-8")
        probe.unlink()
        clean_partials(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"out={out} cannot be written to ({reason}): choose a folder with room that is yours"
        ) from error


def find_pending(settings: RunSettings, plan: Plan, store: Store, console: Console) -> list[Work]:
    """Cells with work left, and how many samples that is; prints the plan."""
    pending, lines = [], []
    model = plan.model
    for cell in plan.cells:
        try:
            writer = store.open_cell(cell.settings, cell.label, cell.info)
            wanted = wanted_rows(cell, settings.samples)
            done = writer.done(wanted)
            have = wanted if done else len(writer.finished)
        except (RecordError, StoreError, OSError) as error:
            console.error(cell.label, error)
            lines.append(f"  unreadable  {cell.label}")
            continue
        left = 0 if done else max(wanted - have, 0)
        state = "done" if done else f"{have}/{wanted}"
        lines.append(f"  {state:>10}  {cell.label}")
        if not done:
            pending.append(Work(cell, left))
    console.say(f"model {model.name} ({model.path}), {model.dtype} on {model.device.name}")
    console.say("\n".join([f"{len(plan.cells)} cells, {len(pending)} with work left:", *lines]))
    if pending:
        console.say(cost_line([(work.cell, work.left) for work in pending], settings.out))
    return pending


def _report(settings: RunSettings, plan: Plan, console: Console) -> None:
    """Write tables and figures from the whole store, and print this run's rows."""
    if console.errors and not is_store(settings.out):
        return
    try:
        report = write_report(settings.out, {cell_key(cell.settings) for cell in plan.cells})
    except (RecordError, StoreError, OSError) as error:
        console.error("report", error)
        return
    for problem in report.problems:
        console.problem(problem)
    written = "\n".join(f"  {line}" for line in report.written)
    console.say(f"\n{report.table}\n\nwritten:\n{written}")
    if settings.wandb.mode != "disabled":
        _log(settings.out, report, console)


def _note_wandb(settings: RunSettings) -> None:
    """Note that the store is to be logged: who reports on all slices of a run finds it there."""
    if settings.wandb.mode != "disabled":
        config = redacted(asdict(replace(settings, slice=None, cells=None)))
        ask_for_wandb(settings.out, settings.wandb.mode, settings.wandb.project, config)


def _log(out: str, report: Report, console: Console) -> None:
    """Log the whole store; what goes wrong there is one line and costs no result."""
    try:
        logged = log_report(out, report)
    except (WandbError, StoreError) as error:
        console.error("wandb", error)
        return
    if logged is not None:
        console.say(logged)
