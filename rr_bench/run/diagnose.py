"""``verb=diagnose``: where a method loses attention, layer by layer and head by head.

Every method of the run selects on the inputs of one dense prefill, and the true attention mass inside
its blocks is measured, beside what two oracles hold with as many blocks. Then the cells are scored as
in any run, so that the report has both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from method.attention import SparsePrefill
from method.keep import NO_KEEP
from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.model.held_mass import MassTap
from rr_bench.plan.cells import Cell, make_plan
from rr_bench.plan.cost import wanted_rows
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.console import Console
from rr_bench.run.errors import describe
from rr_bench.run.run import FAILED, check_out, run
from rr_bench.run.session import Session
from rr_bench.run.work import load
from rr_bench.store.cells import Store
from rr_bench.store.diagnosis import TABLES, VERSION
from rr_bench.store.jsonl import StoreError
from rr_bench.store.lock import LockError

DIGITS = 5


def diagnose(settings: RunSettings) -> int:
    """Measure the sparse cells that are not diagnosed yet, then score the run's cells.

    Returns:
        Exit status: that of the run, or 1 if a cell could not be diagnosed.
    """
    console = Console()
    if settings.dry_run:
        return run(settings)
    try:
        plan = make_plan(settings)
        check_out(settings.out)
        waiting = _waiting(settings, plan.cells)
    except (CheckpointError, ConfigError, StoreError, OSError) as error:
        console.error("plan", error)
        return FAILED
    session = load(settings, plan.model, console) if waiting else None
    for (task, length), cells in waiting.items() if session is not None else ():
        console.say(f"diagnosing {len(cells)} cells of {task} {length}")
        try:
            _diagnose(session, cells, console)  # type: ignore[arg-type]
        except Exception as error:
            console.error(f"diagnose {task} {length}", describe(error, length))
    session = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return max(FAILED if console.errors else 0, run(settings))


def _waiting(settings: RunSettings, cells: Sequence[Cell]) -> dict[tuple[str, int], list[Cell]]:
    """Sparse cells without a diagnosis of as many prompts, by task and length."""
    store, found = Store(settings.out), defaultdict(list)
    for cell in cells:
        writer = store.open_cell(cell.settings, cell.label, cell.info)
        known = writer.diagnosis or {"version": 0, "prompts": 0}
        done = known["version"] == VERSION and known["prompts"] >= wanted_rows(cell, settings.samples)
        if not cell.method.dense and not done:
            found[cell.task.name, cell.length].append(cell)
    return dict(found)


def _diagnose(session: Session, cells: Sequence[Cell], console: Console) -> None:
    """Measure cells that share their prompts, and store what was found."""
    prompts = session.prompts(cells[0])
    tap = MassTap({cell.label: SparsePrefill(cell.method.build(), cell.keep) for cell in cells})
    for prompt in prompts:
        session.prefill(prompt, SparsePrefill(tap, NO_KEEP))
    store = Store(session.settings.out)
    for place, cell in enumerate(cells):
        if cell.label in tap.failed:
            console.error(cell.label, tap.failed[cell.label])
            continue
        try:
            with session.open_cell(cell, store) as writer:
                writer.note_diagnosis(_content(tap, place, len(prompts)))
        except (LockError, StoreError, OSError) as error:
            console.error(cell.label, error)


def _content(tap: MassTap, place: int, prompts: int) -> dict[str, Any]:
    """One method's tables, means over prompts."""
    layers = sorted(tap.found)
    means = torch.stack([torch.stack(tap.found[layer]).mean(0)[:, place] for layer in layers], 1)
    tables = [[[round(x, DIGITS) for x in row] for row in table] for table in means.tolist()]
    content: dict[str, Any] = {"version": VERSION, "prompts": prompts, "layers": layers}
    return content | dict(zip(TABLES, tables, strict=True))
