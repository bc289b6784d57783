"""Stored outputs that keep versions honest: a changed number needs a new version of what made it.

A kind of outputs (methods, prompts, scorers) is a module with a function ``cases()``, listed in
:data:`KINDS`, and a file ``tests/golden/<kind>.json``. ``python -m tests.golden`` writes the files; it
refuses a changed output whose version stayed, so bumping and writing are one step.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "golden"

KINDS = {"methods": "tests.test_golden_methods", "tasks": "tests.test_golden_tasks"}
"""Module whose ``cases()`` gives the outputs of a kind: a mapping from name to :class:`Output`."""

TOLERANCE = 1e-5
"""What floats may differ by, relative to 1 or to themselves: the last bits of another CPU."""


@dataclass(frozen=True)
class Output:
    """What one setting gives on fixed inputs.

    Attributes:
        owner: what carries the version, such as "method.rr.RRAttention".
        version: its version now.
        values: JSON: floats are compared with :data:`TOLERANCE`, all else exactly.
    """

    owner: str
    version: int
    values: Any


def same(stored: Any, now: Any) -> bool:
    """Whether two JSON values agree, floats within :data:`TOLERANCE`."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return stored.keys() == now.keys() and all(same(stored[key], now[key]) for key in stored)
    if isinstance(stored, list) and isinstance(now, list | tuple):
        return len(stored) == len(now) and all(map(same, stored, now))
    if isinstance(stored, float) and isinstance(now, float):
        return math.isclose(stored, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(stored) is type(now) and stored == now


def read(kind: str) -> dict[str, Output]:
    """The stored outputs of a kind; none if it has no file yet."""
    path = FOLDER / f"{kind}.json"
    if not path.is_file():
        return {}
    return {name: Output(**entry) for name, entry in json.loads(path.read_text("utf-8")).items()}


def complaints(stored: Mapping[str, Output], now: Mapping[str, Output]) -> list[str]:
    """What does not fit, a sentence for each output, with what to do about it."""
    found = []
    for name in sorted({*stored, *now}):
        if name not in now:
            found.append(f"{name}: stored, but not computed any more; write the files again")
        elif name not in stored:
            found.append(f"{name}: not stored yet; write the files again")
        elif (found_owner := now[name].owner) != stored[name].owner:
            found.append(f"{name}: made by {found_owner}, stored as {stored[name].owner}'s")
        elif now[name].version != stored[name].version:
            found.append(
                f"{name}: version {now[name].version} of {found_owner}, but version "
                f"{stored[name].version} is stored; write the files again"
            )
        elif not same(stored[name].values, now[name].values):
            found.append(
                f"{name}: the output changed; bump the version of {found_owner} (now "
                f"{now[name].version}) or restore the numbers"
            )
    return found


def unbumped(stored: Mapping[str, Output], now: Mapping[str, Output]) -> list[str]:
    """Complaints that writing the files must not hide: changed outputs of an unchanged version."""
    return [line for line in complaints(stored, now) if "bump the version" in line]


def check(kind: str, now: Mapping[str, Output]) -> None:
    """Fail with every complaint about a kind's outputs."""
    found = complaints(read(kind), now)
    assert not found, "\n".join([*found, "python -m tests.golden writes the files"])


def write(kind: str, now: Mapping[str, Output]) -> None:
    """Store the outputs of a kind, one a line, sorted by name."""
    FOLDER.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(now[name]))}" for name in sorted(now)]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (FOLDER / f"{kind}.json").write_text(text, encoding="utf-8")


def rewrite(monkeypatch: pytest.MonkeyPatch, module: str, old: str, new: str) -> None:
    """Let a test run a module as if its source said ``new`` where it says ``old``.

    Functions, methods and plain constants change in place, so that modules which imported them by
    name see it as well.
    """
    home = importlib.import_module(module)
    source = inspect.getsource(home)
    assert old in source, f"{module} does not say {old!r} any more"
    changed: dict[str, Any] = {"__name__": module}
    exec(compile(source.replace(old, new), str(home.__file__), "exec"), changed)
    for name, thing in list(vars(home).items()):
        other = changed.get(name)
        if isinstance(thing, int | float | str | tuple) and not name.startswith("__"):
            monkeypatch.setattr(home, name, other)
        members = vars(thing) if inspect.isclass(thing) else {name: thing}
        others = vars(other) if inspect.isclass(other) else {name: other}
        for key, function in members.items():
            # Not what was imported, and not what dataclasses generate.
            if inspect.isfunction(function) and function.__code__.co_filename == home.__file__:
                monkeypatch.setattr(function, "__code__", others[key].__code__)


def main() -> int:
    """Write the files of all kinds, or none where a version must be bumped first."""
    outputs = {kind: importlib.import_module(module).cases() for kind, module in KINDS.items()}
    refused = [line for kind, now in outputs.items() for line in unbumped(read(kind), now)]
    if refused:
        print("\n".join(refused), file=sys.stderr)
        return 1
    for kind, now in outputs.items():
        write(kind, now)
        print(f"{FOLDER / kind}.json: {len(now)} outputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
