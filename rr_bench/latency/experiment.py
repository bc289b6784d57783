"""``verb=latency``: times of all levels, written group by group as they are measured."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from method import attention
from rr_bench.config.errors import ConfigError
from rr_bench.config.latency import Geometry, read_geometry
from rr_bench.config.registry import expand_method
from rr_bench.config.schema import RunSettings
from rr_bench.latency.baselines import versions
from rr_bench.latency.forward import Forward, layer_forward, prompt_forward, random_forward
from rr_bench.latency.gate import Gate
from rr_bench.latency.inputs import Captured, Inputs, Shape, input_dtype, random_inputs
from rr_bench.latency.levels import (
    Bench,
    Entry,
    attention_rows,
    ceiling_rows,
    dense_names,
    selection_rows,
)
from rr_bench.latency.prefills import both_rows, host_rows, model_rows
from rr_bench.latency.timing import Candidate, release, run_group
from rr_bench.plan.cells import ModelFacts, model_facts
from rr_bench.plan.dense_below import record_crossovers
from rr_bench.plan.device import resolve_device
from rr_bench.plan.keeps import keep_policy
from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.report import write_report
from rr_bench.run.console import Console
from rr_bench.run.run import INTERRUPTED
from rr_bench.store.environment import environment
from rr_bench.store.jsonl import StoreError
from rr_bench.store.latency_table import FAILED, MISSING, TIME_LIMIT, Row, Table, group_name

VERSION = 5
"""Of the times: raise it when what is timed, or how, changes them; a kernel that became faster counts.
Groups of another version are measured again."""

KERNEL_LEVELS = {
    "attention": attention_rows,
    "selection": selection_rows,
    "both": both_rows,
    "host": host_rows,
}
"""Levels that need inputs alone and no model."""


def latency(settings: RunSettings) -> int:
    """Measure what the settings ask for and the table does not have yet.

    Returns:
        Exit status: 0, 1 if anything failed, 130 if interrupted.
    """
    console = Console()
    try:
        device = resolve_device(settings.device)
        experiment = Experiment(settings, device)
        table = Table(Path(settings.out), _environment(device))
    except (CheckpointError, ConfigError, StoreError, ValueError, OSError) as error:
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
    try:
        Path(settings.out).mkdir(parents=True, exist_ok=True)
        with FileLock(Path(settings.out) / "LOCK", timeout=0):
            _measure(experiment, table, left, console)
            if experiment.facts and not settings.dense_below:
                facts = experiment.facts
                record_crossovers(
                    Path(settings.out), facts.name, facts.config, facts.device, table.rows
                )
        _report(settings, console)
    except Timeout:
        console.error("latency", f"another process measures into {settings.out}: wait for it to end")
    except (StoreError, OSError) as error:
        console.error("latency", error)
    except KeyboardInterrupt:
        console.say("interrupted; finished groups are stored, run the same command to go on")
        return INTERRUPTED
    return 1 if console.errors else 0


def _environment(device: Device) -> dict[str, Any]:
    """The record beside the table, with the versions of what the kernels are compared with."""
    known = {"type": device.kind, "name": device.name}
    known |= {"capability": device.capability} if device.capability else {}
    record = environment(known)
    return record | {"versions": record["versions"] | versions()}


def _report(settings: RunSettings, console: Console) -> None:
    """Print the whole table, and write its page and figures."""
    report = write_report(settings.out)
    written = "\n".join(f"  {path}" for path in report.paths)
    console.say(f"\n{report.table}\n\nwritten:\n{written}")
    for problem in report.problems:
        console.problem(problem)


def _measure(experiment: Experiment, table: Table, groups: list[Group], console: Console) -> None:
    """Measure groups one after the other, each level within its time."""
    began: dict[str, float] = {}
    with tqdm(total=len(groups), unit="group", file=sys.stderr) as bar:
        for group in groups:
            bar.set_description(group.name)
            start = time.monotonic()
            spent = start - began.setdefault(group.level, start)
            late = spent > experiment.settings.latency.limit_s(group.level)
            rows = experiment.skipped(group) if late else experiment.run(group)
            table.put(group.name, experiment.key(group), rows, time.monotonic() - start)
            bar.update(1)
            for row in rows:
                if row.status == FAILED:
                    console.error(f"{group.name} {row.method} {row.backend or ''}".rstrip(), row.reason)
            if experiment.device_lost():
                console.error(group.name, "the GPU is in no state to go on; run the same command again")
                return


@dataclass(frozen=True)
class Group:
    """What is measured together.

    Attributes:
        level: one of the setting's levels.
        length: tokens; ``None`` for the ceilings.
        model: a shape, or the model to capture from; ``None`` for the ceilings.
    """

    level: str
    length: int | None = None
    model: Geometry | ModelFacts | None = None

    @property
    def name(self) -> str:
        """Its name in messages and in ``env.json``."""
        return group_name(self.level, "" if self.model is None else self.model.name, self.length)


class Experiment:
    """The groups of an experiment and how each is measured.

    Args:
        settings: the run's settings.
        device: where to measure.

    Raises:
        ConfigError: a method, a shape or a setting is unknown.
        CheckpointError: the model to capture from is not there.
    """

    def __init__(self, settings: RunSettings, device: Device) -> None:
        self.settings = settings
        specs = [spec for entry in settings.methods for spec in expand_method(entry)]
        specs = [spec for spec in specs if not spec.dense]
        entries = [Entry(spec, spec.build(), keep_policy(settings.keep, spec)) for spec in specs]
        self._geometries = [read_geometry(entry) for entry in settings.latency.models]
        self.facts = model_facts(settings) if settings.latency.captured else None
        self._captured = Captured(settings, self.facts) if self.facts else None
        self._dtype = input_dtype(settings.dtype, device)
        gate = Gate(settings.backend)
        self._bench = Bench(settings, torch.device(device.kind), device.name, entries, gate)
        if "prefill" in settings.latency.levels:
            self._entries("prefill")
            dense_names(self._bench.device, settings.latency.prefill_dense)

    def _entries(self, level: str) -> list[Entry]:
        """The methods of a level; of a whole prefill, which takes long, the chosen ones.

        Raises:
            ConfigError: a chosen one is none of `methods`.
        """
        if level == "ceiling":
            return []
        if level != "prefill":
            return self._bench.entries
        by_name = {entry.spec.name: entry for entry in reversed(self._bench.entries)}
        chosen = self.settings.latency.prefill_methods
        for name in chosen:
            if name not in by_name:
                raise ConfigError(f"latency.prefill_methods: {name!r} is none of `methods`")
        return [by_name[name] for name in chosen]

    def groups(self) -> Iterator[Group]:
        """All groups in the order of measuring: by level, then length, then model."""
        for level in self.settings.latency.levels:
            if level == "ceiling":
                yield Group(level)
                continue
            # What the host does is the same at every length.
            every = self.settings.lengths
            for length in [min(every)] if level == "host" else every:
                for geometry in self._geometries:
                    yield Group(level, length, geometry)
                if self.facts is not None and level != "layer":
                    yield Group(level, length, self.facts)

    def key(self, group: Group) -> str:
        """Hash of everything a group's times depend on but the machine, sources by their versions."""
        settings, model = self.settings, group.model
        masks = {"attention": ["densities"], "both": ["replay"], "layer": ["replay"]}
        masks["prefill"] = [*masks["layer"], "graph", "prefill_dense"]
        efforts = ["calls", "budget_ms", *masks.get(group.level, [])]
        content: dict[str, Any] = {
            "group": group.name,
            "model": model.fingerprint if isinstance(model, ModelFacts) else str(model),
            "methods": [
                [entry.spec.identity, entry.method.version] for entry in self._entries(group.level)
            ],
            "latency": {name: getattr(settings.latency, name) for name in efforts},
            "executor": [attention.VERSION, settings.keep, settings.backend, settings.dense_below],
            "inputs": [str(self._dtype), settings.seed, settings.tasks],
            "baselines": versions(),
            "version": VERSION,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def run(self, group: Group) -> list[Row]:
        """Measure a group."""
        effort = self.settings.latency
        with ExitStack() as stack:
            candidates = list(self._candidates(group, stack))
            device, host = self._bench.device, group.level == "host"
            rows = run_group(candidates, device, effort.calls, effort.budget_ms, host)
        release(self._bench.device)
        return rows

    def skipped(self, group: Group) -> list[Row]:
        """The rows of a group that there is no time for."""
        with ExitStack() as stack:
            rows = [candidate.row for candidate in self._candidates(group, stack)]
        return [replace(row, status=MISSING, reason=TIME_LIMIT) for row in rows]

    def device_lost(self) -> bool:
        """Whether the GPU answers nothing but errors any more, as after an illegal access."""
        if self._bench.device.type == "cpu":
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    def _candidates(self, group: Group, stack: ExitStack) -> Iterator[Candidate]:
        """Rows of a group and how they are measured; nothing large is made yet."""
        if group.length is None or group.model is None:
            yield from ceiling_rows(self._bench)
            return
        inputs = self._inputs(group.model, group.length)
        if group.level in KERNEL_LEVELS:
            yield from KERNEL_LEVELS[group.level](self._bench, inputs)
            return
        forward = self._forward(group, group.model, group.length, stack)
        yield from model_rows(self._bench, inputs, group.level, self._entries(group.level), forward)

    def _forward(
        self, group: Group, model: Geometry | ModelFacts, length: int, stack: ExitStack
    ) -> Forward:
        """The pass that a group times."""
        if isinstance(model, Geometry):
            make = layer_forward if group.level == "layer" else random_forward
            return make(model, length, self._dtype, self._bench.device, stack)
        assert self._captured is not None
        return prompt_forward(partial(self._captured.prompt, length), stack)

    def _inputs(self, model: Geometry | ModelFacts, length: int) -> Inputs:
        """Random inputs of a shape, or those captured from the model."""
        if isinstance(model, Geometry):
            shape = Shape(length, model.heads, model.kv_heads, model.dim, self._dtype)
            make = partial(random_inputs, shape, self._bench.device, self.settings.seed)
            return Inputs(model.name, "random", length, model.heads, model.last_layer, make)
        assert self._captured is not None
        heads, layer = int(model.config["num_attention_heads"]), self._captured.layer()
        make = partial(self._captured.tensors, length)
        return Inputs(model.name, "captured", length, heads, layer, make)
