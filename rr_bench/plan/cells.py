"""From settings to cells: which method on which task at which length, and what identifies each.

A cell's settings hold everything that can change its numbers; their hash is its key in the store.
Nothing heavy is imported here, so a run that has nothing left to do notices at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rr_bench.config.registry import MethodSpec, TaskSpec, expand_method, expand_task
from rr_bench.config.schema import ConfigError, RunSettings, parse_slice
from rr_bench.plan.device import resolve_device
from rr_bench.plan.gguf import origin
from rr_bench.plan.model_facts import HUB_ID, Device, read_config, resolve_dtype, resolve_path
from rr_bench.store.environment import package_versions
from rr_bench.store.fingerprint import model_fingerprint, source_closure
from rr_bench.store.redact import stored_path
from rr_bench.tasks.sources import identity, newline_stop

EXECUTOR = ("method.attention", "rr_bench.model.hook", "rr_bench.model.lm", "rr_bench.model.loading")
VERSIONED = ("torch", "triton", "transformers", "tokenizers")

Spec = TypeVar("Spec")


@dataclass(frozen=True)
class ModelFacts:
    """The model as far as it is known before loading.

    Attributes:
        name: name in tables.
        path: local folder.
        stored: the path as records name it, without anything of this machine.
        config: ``config.json``, text part.
        fingerprint: hash of weights, config and tokenizer.
        dtype: resolved dtype.
        device: resolved device.
    """

    name: str
    path: Path
    stored: str
    config: dict[str, Any]
    fingerprint: str
    dtype: str
    device: Device


@dataclass(frozen=True)
class Cell:
    """One method on one task at one length.

    Attributes:
        method: the method and its settings.
        task: the task.
        length: nominal length in tokens.
        settings: what the key hashes.
        model: the model it runs on.
        keep: the setting ``keep`` as given; ``None`` for the dense baseline.
    """

    method: MethodSpec
    task: TaskSpec
    length: int
    settings: dict[str, Any]
    model: ModelFacts
    keep: Any

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        return f"{self.model.name} {self.task.name} {self.length} {self.method.label}"

    def info(self, switches: Mapping[str, bool] | None = None) -> dict[str, Any]:
        """The cell's description in the store.

        Args:
            switches: the keep policy's switches, once the method class is loaded and they are known.
        """
        name = "none" if self.keep is None else self.keep if isinstance(self.keep, str) else "custom"
        return {
            "model": {
                "name": self.model.name,
                "path": self.model.stored,
                "dtype": self.model.dtype,
                "fingerprint": self.model.fingerprint,
            },
            "method": {
                "name": self.method.name,
                "label": self.method.label,
                "params": self.method.recorded,
                "dense": self.method.dense,
                "keep": {"name": name, **(switches or {})},
            },
            "task": self.task.name,
            "task_version": self.task.version,
            "length": self.length,
            "seed": self.settings["seed"],
            "source": self.settings["data"]["source"],
            "sources": self.settings["sources"],
        }


@dataclass
class Plan:
    """The cells in running order, and what could not be planned.

    Attributes:
        model: the model of all cells.
        cells: by length, then task, then method, the dense baseline first.
        problems: one line per setting that names something unusable; the rest runs.
    """

    model: ModelFacts
    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def make_plan(settings: RunSettings) -> Plan:
    """Plan a run.

    Raises:
        CheckpointError: the model cannot be found, or device or dtype do not fit.
    """
    plan = Plan(model_facts(settings))
    methods = _expand(settings.methods, expand_method, plan.problems)
    tasks = _expand(settings.tasks, expand_task, plan.problems)
    _check_distinct(methods, "methods", lambda spec: spec.label)
    _check_distinct(tasks, "tasks", lambda spec: spec.name)
    executor = source_closure(EXECUTOR)
    methods.sort(key=lambda spec: not spec.dense)
    for length in sorted(settings.lengths):
        for task in tasks:
            try:
                data = identity(task.name, length, settings.data)
            except (ValueError, OSError) as error:
                plan.problems.append(f"{task.name} at lengths={length}: {error}")
                continue
            for method in methods:
                sources = {**executor, **source_closure([method.module]), **task.sources}
                plan.cells.append(_cell(settings, plan.model, method, task, length, data, sources))
    if settings.slice is not None:
        # Every n-th cell, so that each slice gets its share of the long lengths.
        index, count = parse_slice(settings.slice)
        plan.cells = plan.cells[index - 1 :: count]
    return plan


def model_facts(settings: RunSettings) -> ModelFacts:
    """Find the model and resolve dtype and device without loading anything."""
    path = resolve_path(settings.model.path)
    rope = settings.model.rope
    config = read_config(path, rope)
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, config, device)
    file = origin(path)
    fingerprint = model_fingerprint(path) if file is None else file.sha256
    if rope is not None:
        fingerprint += f"+rope:{json.dumps(rope, sort_keys=True)}"
    name, stored = _model_names(settings.model.path, path, fingerprint)
    name = settings.model.name or name
    return ModelFacts(name, path, stored, config, fingerprint, dtype, device)


def _model_names(given: str, path: Path, fingerprint: str) -> tuple[str, str]:
    """A model's name in tables and its path in records: a hub id, a path in the repository, or else
    the folder's name with the fingerprint, since many folders share a name.
    """
    if HUB_ID.fullmatch(given) and path.parent.name == "snapshots":
        return given.rpartition("/")[2], given
    if (file := origin(path)) is not None:
        return Path(file.file).stem, f"{file.file}@{fingerprint[:12]}"
    stored = stored_path(path)
    return path.name, stored if "/" in stored else f"{stored}@{fingerprint[:12]}"


def _expand(entries: list[Any], expand: Callable[[Any], list[Spec]], problems: list[str]) -> list[Spec]:
    """Specs of all usable entries; an unusable one becomes a problem and the others still run."""
    specs: list[Spec] = []
    for entry in entries:
        try:
            specs += expand(entry)
        except ConfigError as error:
            problems.append(str(error))
    return specs


def _check_distinct(specs: list[Spec], setting: str, name: Callable[[Spec], str]) -> None:
    """One entry twice would be one cell twice."""
    names = [name(spec) for spec in specs]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise ConfigError(f"{setting} lists {', '.join(twice)} more than once")


def _cell(
    settings: RunSettings,
    model: ModelFacts,
    method: MethodSpec,
    task: TaskSpec,
    length: int,
    data: dict[str, Any],
    sources: dict[str, str],
) -> Cell:
    keep = None if method.dense else settings.keep
    identity = {
        "model": model.fingerprint,
        "dtype": model.dtype,
        "device": model.device.name,
        "method": {"target": method.target, "params": method.recorded, "files": method.files},
        "keep": keep,
        "backend": settings.backend,
        "dense_below": 0 if method.dense else settings.dense_below,
        "task": task.name,
        "task_version": task.version,
        "length": length,
        "seed": settings.seed,
        "data": data,
        "newline_stop": newline_stop(task.name, settings.newline_stop, thinking=settings.data.thinking),
        "versions": package_versions(*VERSIONED),
        "sources": dict(sorted(sources.items())),
    }
    return Cell(method, task, length, identity, model, keep)
