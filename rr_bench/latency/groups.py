"""The groups of an experiment, in their order, and how each is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from rr_bench.config.latency import Geometry, read_geometry
from rr_bench.config.registry import MethodSpec, expand_method
from rr_bench.config.schema import ConfigError, RunSettings
from rr_bench.latency.bench import Bench, Entry, Source
from rr_bench.latency.candidate import Candidate, Effort, release, run_group
from rr_bench.latency.captured import Captured
from rr_bench.latency.cases import Shape, random_inputs
from rr_bench.latency.inputs import Inputs
from rr_bench.latency.levels import KERNEL_LEVELS, ceiling_rows
from rr_bench.latency.table import MISSING, TIME_LIMIT, Row, group_name
from rr_bench.latency.whole import Forward, model_rows
from rr_bench.plan.cells import ModelFacts, model_facts
from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.run.session import build_method, keep_policy
from rr_bench.store.fingerprint import source_closure, tree_hash

SOURCES = ("method.attention", "rr_bench.latency.groups")
MEASURED_BY = ("method/", "rr_bench/latency/", "rr_bench/hook.py")
"""Of the sources behind the experiment, those that a time depends on."""


@dataclass(frozen=True)
class Group:
    """What is measured together.

    Attributes:
        level: one of the setting's levels.
        length: tokens; ``None`` for the ceilings.
        model: a shape, or the model to capture from; ``None`` for the ceilings.
    """

    level: str
    length: int | None
    model: Geometry | ModelFacts | None

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
        CheckpointError: the model to capture from, or the device, is not there.
    """

    def __init__(self, settings: RunSettings, device: Device) -> None:
        if device.kind == "cuda" and not torch.cuda.is_available():
            raise CheckpointError(
                f"nvidia-smi shows {device.name}, but torch {torch.__version__} sees no CUDA device: "
                "set device=cpu, or install a torch build that fits the driver"
            )
        self.settings = settings
        specs = [spec for entry in settings.methods for spec in expand_method(entry)]
        self._specs = [spec for spec in specs if not spec.dense]
        self._geometries = [read_geometry(entry) for entry in settings.latency.models]
        self._facts = model_facts(settings) if settings.latency.captured else None
        self._captured = Captured(settings, self._facts) if self._facts else None
        torch_device = torch.device(device.kind)
        self._dtype = _dtype(settings.dtype, device)
        self._bench = Bench(
            torch_device,
            device.name,
            [_entry(spec, settings.keep) for spec in self._specs],
            settings.latency.densities,
            settings.latency.replay,
            settings.backend,
            settings.dense_below,
        )
        by_name = {entry.name: entry for entry in reversed(self._bench.entries)}
        for name in settings.latency.prefill_methods:
            if name not in by_name:
                raise ConfigError(f"latency.prefill_methods: {name!r} is none of `methods`")
        self._prefill_entries = [by_name[name] for name in settings.latency.prefill_methods]
        self._effort = Effort(torch_device, settings.latency.calls, settings.latency.budget_ms)
        modules = [*SOURCES, *(spec.module for spec in self._specs)]
        self._sources = {
            name: sha for name, sha in source_closure(modules).items() if name.startswith(MEASURED_BY)
        }

    def groups(self) -> Iterator[Group]:
        """All groups in the order of measuring: by level, then length, then model."""
        for level in self.settings.latency.levels:
            if level == "ceiling":
                yield Group(level, None, None)
                continue
            for length in self.settings.lengths:
                for geometry in self._geometries:
                    yield Group(level, length, geometry)
                if self._facts is not None and level in KERNEL_LEVELS:
                    yield Group(level, length, self._facts)

    def key(self, group: Group) -> str:
        """Hash of everything a group's times depend on but the machine."""
        settings, model = self.settings, group.model
        content: dict[str, Any] = {
            "group": group.name,
            "model": model.fingerprint if isinstance(model, ModelFacts) else str(model),
            "methods": [[spec.target, spec.recorded, spec.files] for spec in self._specs],
            "latency": {
                name: getattr(settings.latency, name)
                for name in ("densities", "replay", "prefill_methods", "calls", "budget_ms")
            },
            "executor": [settings.keep, settings.backend, settings.dense_below],
            "inputs": [str(self._dtype), settings.seed, settings.tasks],
            "sources": tree_hash(self._sources),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def run(self, group: Group) -> list[Row]:
        """Measure a group."""
        with ExitStack() as stack:
            rows = run_group(list(self._candidates(group, stack)), self._effort)
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
        source = self._source(group.model, group.length)
        if group.level in KERNEL_LEVELS:
            yield from KERNEL_LEVELS[group.level](self._bench, source)
            return
        assert isinstance(group.model, Geometry)
        one_layer = group.level == "layer"
        entries = self._bench.entries if one_layer else self._prefill_entries
        forward = Forward(group.model, group.length, one_layer, self._dtype, self._bench.device, stack)
        yield from model_rows(self._bench, source, group.level, entries, forward)

    def _source(self, model: Geometry | ModelFacts, length: int) -> Source:
        """Random inputs of a shape, or those captured from the model."""
        if isinstance(model, Geometry):
            shape = Shape(length, model.heads, model.kv_heads, model.dim, self._dtype)
            make = partial(random_inputs, shape, self._bench.device, self.settings.seed)
            inputs = Inputs(make, model.last_layer, self._bench.backend)
            return Source(model.name, "random", length, model.heads, inputs)
        assert self._captured is not None
        make = partial(self._captured.tensors, length)
        heads = int(model.config["num_attention_heads"])
        inputs = Inputs(make, self._captured.layer(), self._bench.backend)
        return Source(model.name, "probe", length, heads, inputs)


def _entry(spec: MethodSpec, keep: Any) -> Entry:
    method = build_method(spec.target, spec.params)
    return Entry(spec.name, spec.label, method, keep_policy(keep, method))


def _dtype(setting: str, device: Device) -> torch.dtype:
    """``auto`` is bf16 on a GPU and fp32 on a CPU.

    Raises:
        ConfigError: an unknown dtype.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if setting == "auto":
        return torch.bfloat16 if device.kind == "cuda" else torch.float32
    if setting not in names:
        raise ConfigError(f"dtype={setting}: auto, {', '.join(names)}")
    return names[setting]
