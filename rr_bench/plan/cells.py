"""From settings to cells: which method on which task at which length, and what identifies each.

A cell's key is a hash of its settings: everything that can change its numbers, and the versions of
the code that computes them. A version is a small whole number, raised by hand when results change;
golden tests notice when that was forgotten. What else explains a number later, package versions and
the hash of the source among them, is kept beside it as the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from method import attention
from method.keep import KeepPolicy
from rr_bench.config.errors import ConfigError
from rr_bench.config.reading import parse_slice
from rr_bench.config.registry import MethodSpec, TaskSpec, expand_method, expand_task
from rr_bench.config.schema import RunSettings
from rr_bench.plan.dense_below import dense_below
from rr_bench.plan.device import resolve_device
from rr_bench.plan.families import VIDEO_FAMILIES
from rr_bench.plan.gguf import origin
from rr_bench.plan.keeps import keep_policies
from rr_bench.plan.model_facts import (
    MODEL_VERSION,
    VISION_VERSION,
    Device,
    model_names,
    read_config,
    resolve_dtype,
    resolve_path,
)
from rr_bench.store.cells import cell_key
from rr_bench.store.fingerprint import model_fingerprint
from rr_bench.tasks.sources import VIDEO_TASKS, decodes, identity, newline_stop

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

    @property
    def video(self) -> bool:
        """Whether it can be given a video."""
        return self.config.get("whole_type") in VIDEO_FAMILIES


@dataclass(frozen=True)
class Cell:
    """One method on one task at one length.

    Attributes:
        method: the method and its settings.
        task: the task.
        length: nominal length in tokens.
        settings: what the key hashes.
        model: the model it runs on.
        keep: the always-kept blocks.
        note: what tells it from cells of the same label.
    """

    method: MethodSpec
    task: TaskSpec
    length: int
    settings: dict[str, Any]
    model: ModelFacts
    keep: KeepPolicy
    note: str = ""

    @property
    def label(self) -> str:
        """Readable name of the cell."""
        return f"{self.model.name} {self.task.name} {self.length} {self.method.label}{self.note}"

    @property
    def info(self) -> dict[str, Any]:
        """The cell's description in the store, beside key, label and settings."""
        return {
            "model": {"name": self.model.name, "path": self.model.stored},
            "method": {
                "name": self.method.name,
                "label": self.method.label,
                "params": self.method.recorded,
                "dense": self.method.dense,
                "knob": None if self.method.cls.knob is None else self.method.cls.knob.name,
            },
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


def make_plan(settings: RunSettings, device: Device | None = None) -> Plan:
    """Plan a run.

    Args:
        settings: the run's settings.
        device: where it will run, if that is not here.

    Raises:
        CheckpointError: the model cannot be found, or device or dtype do not fit.
        ConfigError: a method or task is listed twice, or ``cells`` names one that is not planned.
    """
    plan = Plan(model_facts(settings, device))
    methods = _expand(settings.methods, expand_method, plan.problems)
    tasks = _expand(settings.tasks, expand_task, plan.problems)
    _check_distinct(methods, "methods", lambda spec: f"{spec.label} {spec.identity}")
    _check_distinct(tasks, "tasks", lambda spec: spec.name)
    methods.sort(key=lambda spec: not spec.dense)
    of_method = [
        (method, keep, _method_settings(settings, plan.model, method, keep))
        for method in methods
        for keep in keep_policies(settings.keep, method)
    ]
    of_run = _run_settings(settings, plan.model)
    if not plan.model.video:
        blind = [task.name for task in tasks if task.name in VIDEO_TASKS]
        plan.problems += [f"tasks: {name} needs a model that can be given a video" for name in blind]
        tasks = [task for task in tasks if task.name not in blind]
    for length in sorted(settings.lengths):
        for task in tasks:
            try:
                of_task = _task_settings(settings, task, length)
            except (ValueError, OSError) as error:
                plan.problems.append(f"{task.name} at lengths={length}: {error}")
                continue
            for method, keep, own in of_method:
                identity = _merged(of_run, of_task, own)
                note = f" keep {keep}" if isinstance(settings.keep, list) and not method.dense else ""
                plan.cells.append(Cell(method, task, length, identity, plan.model, keep, note))
    if settings.slice is not None:
        # Every n-th cell, so that each slice gets its share of the long lengths.
        index, count = parse_slice(settings.slice)
        plan.cells = plan.cells[index - 1 :: count]
    if settings.cells is not None:
        # What could not be planned is the trouble of whoever chose the cells.
        plan = Plan(plan.model, _named(plan, settings.cells))
    return plan


def _named(plan: Plan, keys: list[str]) -> list[Cell]:
    """The cells whose keys begin with ``keys``."""
    planned = {cell_key(cell.settings): cell for cell in plan.cells}
    for key in keys:
        if not any(full.startswith(key) for full in planned):
            device = plan.model.device
            raise ConfigError(
                f"cells: there is no cell {key} with these settings on {device.name} (capability "
                f"{device.capability}): a key changes with the settings, the capability of the GPU and "
                f"the versions of the code{''.join(f'; {problem}' for problem in plan.problems)}"
            )
    return [cell for full, cell in planned.items() if full.startswith(tuple(keys))]


def model_facts(settings: RunSettings, device: Device | None = None) -> ModelFacts:
    """Find the model and resolve dtype and device without loading anything.

    Args:
        settings: the run's settings.
        device: where the model will run, if that is not here.
    """
    path = resolve_path(settings.model.path)
    config = read_config(path, settings.model.rope)
    device = device or resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, config, device)
    file = origin(path)
    fingerprint = model_fingerprint(path) if file is None else file.sha256
    name, stored = model_names(settings.model.path, path, fingerprint)
    return ModelFacts(settings.model.name or name, path, stored, config, fingerprint, dtype, device)


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


def _run_settings(settings: RunSettings, model: ModelFacts) -> dict[str, Any]:
    """The part of the key that all cells of a run share."""
    device = model.device
    return {
        "model": model.fingerprint,
        "rope": settings.model.rope,
        "trust_remote_code": settings.model.trust_remote_code,
        "dtype": model.dtype,
        "device": device.kind if device.capability is None else f"{device.kind} {device.capability}",
        "seed": settings.seed,
        "decode": settings.decode,
        "versions": {"executor": attention.VERSION, "model": MODEL_VERSION},
    }


def _task_settings(settings: RunSettings, task: TaskSpec, length: int) -> dict[str, Any]:
    """The part of the key that a task at one length decides."""
    video = task.name in VIDEO_TASKS
    return {
        "task": task.name,
        "length": length,
        "newline_stop": newline_stop(task.name, settings.newline_stop, thinking=settings.data.thinking),
        "data": identity(task.name, length, settings.data),
        "positions": settings.model.positions if video else "original",
        "decode_together": settings.decode_together if decodes(task.name) else 1,
        "versions": task.versions | ({"vision": VISION_VERSION} if video else {}),
    }


def _method_settings(
    settings: RunSettings, model: ModelFacts, method: MethodSpec, keep: KeepPolicy
) -> dict[str, Any]:
    """The part of the key that a method decides."""
    backend = attention.backend_for(
        settings.backend, model.device.kind, model.device.capability, model.dtype
    )
    return {
        "method": method.identity,
        "keep": None if method.dense else dict(vars(keep)),
        "backend": None if method.dense else backend,
        "dense_below": dense_below(settings, model.config, model.device, method),
        "versions": {"method": method.cls.version},
    }


_OPTIONAL = {
    "rope": None,
    "trust_remote_code": False,
    "dense_below": 0,
    "decode": "auto",
    "decode_together": 1,
    "positions": "original",
}
"""Settings that a key leaves out at their defaults, so that ones added later change no key."""


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """One cell's settings: the parts put together, those at an optional default left out."""
    merged: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    for part in parts:
        merged |= part
        versions |= part.get("versions", {})
    kept = {name: value for name, value in merged.items() if value != _OPTIONAL.get(name, ...)}
    return kept | {"versions": versions}
