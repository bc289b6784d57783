"""What can be run: the methods in ``conf/method`` and the tasks in ``tasks``.

A method is one class and one YAML file whose ``_target_`` names the class; variants inherit through
``defaults:``, as in every Hydra group. A task is one lm-eval YAML file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import signature
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from method.base import Method
from rr_bench import CONF, ROOT, TASKS
from rr_bench.config.errors import ConfigError, nearest
from rr_bench.store.fingerprint import file_hash
from rr_bench.store.redact import stored_path
from rr_bench.tasks.definitions import read_definition
from rr_bench.tasks.sources import versions


@dataclass(frozen=True)
class MethodSpec:
    """One method with one set of settings.

    Attributes:
        name: stem of its YAML file.
        cls: its class.
        params: constructor arguments.
        label: name in tables, with its knob, and other settings where they differ from the YAML.
    """

    name: str
    cls: type[Method]
    params: dict[str, Any]
    label: str

    @property
    def dense(self) -> bool:
        """Whether it is the dense baseline."""
        return self.cls.dense

    @property
    def paths(self) -> dict[str, Path]:
        """Settings that name a file: looked up from the working directory, then from the project."""
        places = {
            key: (Path(value).expanduser(), ROOT / value)
            for key, value in self.params.items()
            if isinstance(value, str)
        }
        return {
            key: next(path for path in both if path.is_file())
            for key, both in places.items()
            if any(path.is_file() for path in both)
        }

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as records name them: paths without anything of this machine."""
        return self.params | {key: stored_path(path) for key, path in self.paths.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other methods and settings.

        A setting at its class's default is left out, so that one that is added later changes no
        key; a file counts by its content, not by its name.
        """
        defaults = {name: item.default for name, item in signature(self.cls).parameters.items()}
        params = {
            key: value
            for key, value in self.params.items()
            if key not in self.paths and (key not in defaults or value != defaults[key])
        }
        files = {key: file_hash(path) for key, path in self.paths.items()}
        return {"name": self.name, "params": params, "files": files}

    def build(self, **changes: Any) -> Method:
        """The method itself, with some settings changed."""
        return self.cls(**{**self.params, **changes})


@dataclass(frozen=True)
class TaskSpec:
    """One lm-eval task: its name, and the versions of its definition, prompts and scorer."""

    name: str
    versions: dict[str, int]


def method_names(conf: Path = CONF) -> list[str]:
    """Names of all methods."""
    return sorted(path.stem for path in (conf / "method").glob("*.yaml"))


def expand_method(entry: Any, conf: Path = CONF) -> list[MethodSpec]:
    """Turn one entry of ``methods`` into method specs.

    Args:
        entry: a name, or a mapping of ``name`` and settings; a list as a setting's value expands to
            one method per value, several lists to their grid.
        conf: folder of the config groups.

    Raises:
        ConfigError: an unknown method or setting, with the nearest valid one.
    """
    fields = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise ConfigError(f"methods: {entry!r} is neither a name nor a mapping with a name")
    name = fields["name"]
    known = method_names(conf)
    if name not in known:
        raise ConfigError(f"methods: unknown method {name!r}: {nearest(name, known)}")
    defaults = dict(_method_config(name, conf))
    cls = _method_class(name, str(defaults.pop("_target_", "")))
    given = {str(key): value for key, value in fields.items() if key != "name"}
    for key, value in given.items():
        if key not in defaults:
            raise ConfigError(f"methods: {name} has no setting {key!r}: {nearest(key, defaults)}")
        if _names_target(value):
            raise ConfigError(f"methods: {name}.{key}: _target_ belongs into conf/method alone")
    values = [
        value if isinstance(value, list) and not isinstance(defaults[key], list) else [value]
        for key, value in given.items()
    ]
    return [
        _spec(name, cls, defaults, dict(zip(given, chosen, strict=True))) for chosen in product(*values)
    ]


def _names_target(value: Any) -> bool:
    """Whether ``_target_``, which names what is to be imported, stands anywhere in a setting."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_names_target, value.values()))
    return isinstance(value, list) and any(map(_names_target, value))


@cache
def _method_config(name: str, conf: Path) -> Mapping[str, Any]:
    """``conf/method/<name>.yaml`` with what it inherits."""
    try:
        if GlobalHydra.instance().is_initialized():
            composed = compose(f"method/{name}")
        else:
            with initialize_config_dir(str(conf), version_base="1.3"):
                composed = compose(f"method/{name}")
        plain = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"conf/method/{name}.yaml cannot be read: {error}") from error
    found = plain.get("method") if isinstance(plain, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"conf/method/{name}.yaml must be a mapping")
    return {str(key): value for key, value in found.items()}


def _method_class(name: str, target: str) -> type[Method]:
    where = f"conf/method/{name}.yaml: _target_={target!r}"
    module, _, cls = target.rpartition(".")
    try:
        found = getattr(import_module(module), cls)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where} is no class that can be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{where} is no subclass of method.base.Method")
    return found


def _spec(name: str, cls: type[Method], defaults: dict[str, Any], chosen: dict[str, Any]) -> MethodSpec:
    params = {**defaults, **chosen}
    knob = cls.knob.name if cls.knob is not None else None
    shown = {key: value for key, value in params.items() if key == knob or value != defaults[key]}
    inside = ", ".join(f"{key}={_shown(value)}" for key, value in shown.items())
    return MethodSpec(name, cls, params, f"{name}({inside})" if inside else name)


def _shown(value: Any) -> Any:
    """A setting's value in a label; of a file its name without the ending."""
    named = isinstance(value, str) and ("/" in value or Path(value).is_file())
    return Path(value).stem if named else value


def expand_task(name: str, root: Path = TASKS) -> list[TaskSpec]:
    """Turn one entry of ``tasks``, a task or a group of tasks, into task specs.

    Raises:
        ConfigError: no such task or group, with the nearest valid name.
    """
    groups, tasks = _definitions(root)
    if name in groups:
        return [spec for member in groups[name] for spec in expand_task(member, root)]
    if name not in tasks:
        raise ConfigError(f"tasks: unknown task {name!r}: {nearest(name, [*tasks, *groups])}")
    return [TaskSpec(name, versions(name))]


@cache
def _definitions(root: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Members of all groups, and names of all tasks."""
    groups: dict[str, list[str]] = {}
    tasks: set[str] = set()
    for path in sorted(root.rglob("*.yaml")):
        try:
            definition = read_definition(path)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if isinstance(definition.get("group"), str):
            groups[definition["group"]] = list(definition["task"])
        elif isinstance(definition.get("task"), str):
            tasks.add(definition["task"])
    return groups, tasks
