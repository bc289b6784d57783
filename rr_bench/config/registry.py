"""What can be run: the methods in ``conf/method`` and the tasks in ``tasks``, read without imports.

A method is one class and one YAML file whose ``_target_`` names the class; a task is one lm-eval
YAML file. Neither torch nor lm-eval is needed to know their names, settings and versions.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from rr_bench import CONF, ROOT, TASKS
from rr_bench.config.schema import ConfigError, nearest
from rr_bench.store.fingerprint import file_hash, module_file, source_closure
from rr_bench.store.redact import stored_path


@dataclass(frozen=True)
class MethodSpec:
    """One method with one set of settings.

    Attributes:
        name: stem of its YAML file.
        target: dotted name of the class.
        params: constructor arguments.
        label: name in tables: numbers always, other settings where they differ from the YAML.
        dense: whether the class is the dense baseline.
    """

    name: str
    target: str
    params: dict[str, Any]
    label: str
    dense: bool

    @property
    def module(self) -> str:
        """Module of the class."""
        return self.target.rpartition(".")[0]

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
    def files(self) -> dict[str, str]:
        """Hashes of the files that settings name: a pattern file counts by its content."""
        return {key: file_hash(path) for key, path in self.paths.items()}

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as records name them: paths without anything of this machine."""
        return self.params | {key: stored_path(path) for key, path in self.paths.items()}


@dataclass(frozen=True)
class TaskSpec:
    """One lm-eval task: its name, its version, and the hashes of the files that define it."""

    name: str
    version: int | float | str
    sources: dict[str, str]


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
    known = [path.stem for path in (conf / "method").glob("*.yaml")]
    if name not in known:
        raise ConfigError(f"methods: unknown method {name!r}: {nearest(name, known)}")
    defaults = _read_yaml(conf / "method" / f"{name}.yaml")
    target = str(defaults.pop("_target_", ""))
    given = {str(key): value for key, value in fields.items() if key != "name"}
    for key in given:
        if key not in defaults:
            raise ConfigError(f"methods: {name} has no setting {key!r}: {nearest(key, defaults)}")
    values = [
        value if isinstance(value, list) and not isinstance(defaults[key], list) else [value]
        for key, value in given.items()
    ]
    dense = _is_dense(name, target)
    return [
        _spec(name, target, defaults, dict(zip(given, chosen, strict=True)), dense)
        for chosen in product(*values)
    ]


def _spec(
    name: str, target: str, defaults: dict[str, Any], chosen: dict[str, Any], dense: bool
) -> MethodSpec:
    params = {**defaults, **chosen}
    shown = {
        key: value
        for key, value in params.items()
        if value != defaults[key] or (isinstance(value, int | float) and not isinstance(value, bool))
    }
    inside = ", ".join(f"{key}={_shown(value)}" for key, value in shown.items())
    return MethodSpec(name, target, params, f"{name}({inside})" if inside else name, dense)


def _shown(value: Any) -> Any:
    """A setting's value in a label; of a file its name without the ending."""
    named = isinstance(value, str) and ("/" in value or Path(value).is_file())
    return Path(value).stem if named else value


def _is_dense(name: str, target: str) -> bool:
    """Read ``dense = True`` off the class in the method's source."""
    module, _, cls = target.rpartition(".")
    path = module_file(module, ROOT)
    if path is None:
        raise ConfigError(f"conf/method/{name}.yaml: _target_={target!r} is no class of this project")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return any(_sets_dense(line) for line in node.body)
    raise ConfigError(f"conf/method/{name}.yaml: {path.name} defines no class {cls}")


def _sets_dense(line: ast.stmt) -> bool:
    if isinstance(line, ast.AnnAssign):
        targets: list[ast.expr] = [line.target]
    elif isinstance(line, ast.Assign):
        targets = line.targets
    else:
        return False
    named = any(isinstance(target, ast.Name) and target.id == "dense" for target in targets)
    return named and isinstance(line.value, ast.Constant) and line.value.value is True


def expand_task(name: str, root: Path = TASKS) -> list[TaskSpec]:
    """Turn one entry of ``tasks``, a task or a group of tasks, into task specs.

    Raises:
        ConfigError: no such task or group, with the nearest valid name.
    """
    tasks: dict[str, Path] = {}
    groups: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.yaml")):
        definition = _read_yaml(path)
        if isinstance(definition.get("group"), str):
            groups[definition["group"]] = list(definition["task"])
        elif isinstance(definition.get("task"), str):
            tasks[definition["task"]] = path
    if name in groups:
        return [spec for member in groups[name] for spec in expand_task(member, root)]
    if name not in tasks:
        raise ConfigError(f"tasks: unknown task {name!r}: {nearest(name, [*tasks, *groups])}")
    return [_task_spec(name, tasks[name])]


def _task_spec(name: str, path: Path) -> TaskSpec:
    """Follow a task's includes and functions to the files behind it."""
    definition: dict[str, Any] = {}
    files, pending = [], [path]
    while pending:
        file = pending.pop()
        files.append(file)
        part = _read_yaml(file)
        included = part.pop("include", [])
        pending += [
            file.parent / item for item in ([included] if isinstance(included, str) else included)
        ]
        definition = {**part, **definition}
    modules = {v.function.rpartition(".")[0] for v in definition.values() if isinstance(v, _Function)}
    sources = {file.relative_to(ROOT).as_posix(): file_hash(file) for file in files}
    version = (definition.get("metadata") or {}).get("version", 0)
    return TaskSpec(name, version, sources | source_closure(sorted(modules)))


@dataclass(frozen=True)
class _Function:
    """A ``!function`` reference that is not followed."""

    function: str


class _Loader(yaml.SafeLoader):
    """Plain YAML plus lm-eval's ``!function`` tag."""


_Loader.add_constructor("!function", lambda loader, node: _Function(str(node.value)))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must be a mapping")
    return content
