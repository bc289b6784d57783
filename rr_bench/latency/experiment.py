"""``verb=latency``: times of all levels, written group by group as they are measured."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from rr_bench.config.schema import ConfigError, RunSettings
from rr_bench.latency.groups import Experiment, Group
from rr_bench.latency.summary import summary
from rr_bench.latency.table import FAILED, Table, TableError
from rr_bench.plan.device import resolve_device
from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.run.run import INTERRUPTED, Console
from rr_bench.store.environment import environment
from rr_bench.store.lock import FileLock, LockError


def latency(settings: RunSettings) -> int:
    """Measure what the settings ask for and the table does not have yet.

    Returns:
        Exit status: 0, 1 if anything failed, 130 if interrupted.
    """
    console = Console()
    try:
        device = resolve_device(settings.device)
        experiment = Experiment(settings, device)
        record = environment({"type": device.kind, "name": device.name, **_capability(device)})
        table = Table(Path(settings.out), record)
    except (CheckpointError, ConfigError, TableError, ValueError, OSError) as error:
        console.error("latency", error)
        return 1
    groups = list(experiment.groups())
    left = [group for group in groups if not table.done(group.name, experiment.key(group))]
    console.say(f"{len(groups)} groups of rows on {device.name}, {len(left)} to measure")
    if device.kind == "cpu":
        console.say("there is no GPU here: times on a CPU show that it runs, not which method is fast")
    if settings.dry_run:
        console.say("\n".join(f"  {group.name}" for group in left))
        return 0
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(settings.out) / "LOCK"):
            _measure(experiment, table, left, console)
    except LockError as error:
        console.error("latency", error)
    except KeyboardInterrupt:
        console.say("interrupted; finished groups are stored, run the same command to go on")
        return INTERRUPTED
    names = {group.name for group in groups}
    console.say(summary([row for row in table.rows if row.group in names]))
    return 1 if console.errors else 0


def _measure(experiment: Experiment, table: Table, groups: list[Group], console: Console) -> None:
    """Measure groups one after the other, each level within its time."""
    began: dict[str, float] = {}
    with tqdm(total=len(groups), unit="group", file=sys.stderr) as bar:
        for group in groups:
            bar.set_description(group.name)
            start = time.monotonic()
            spent = start - began.setdefault(group.level, start)
            if spent > experiment.settings.latency.limit_s(group.level):
                rows = experiment.skipped(group)
            else:
                rows = experiment.run(group)
            table.put(group.name, experiment.key(group), rows, time.monotonic() - start)
            bar.update(1)
            for row in rows:
                if row.status == FAILED:
                    console.error(f"{group.name} {row.method} {row.backend or ''}".rstrip(), row.reason)
            if experiment.device_lost():
                console.error(group.name, "the GPU is in no state to go on; run the same command again")
                return


def _capability(device: Device) -> dict[str, str]:
    if device.kind == "cpu":
        return {}
    return {"capability": ".".join(map(str, torch.cuda.get_device_capability()))}
