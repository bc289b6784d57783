"""What results were measured on, as lines of a page."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rr_bench.store.stored import StoredCell

MACHINE = ("device", "layers", "driver", "cpu", "os", "python", "versions", "commit")
"""Parts of an environment record that a page names."""

PROVENANCE = ("device", "python", "versions", "commit", "sources")
"""Parts that can explain why rows of one table differ though their keys say that they should not."""

_SLICE = re.compile(r" slice=\d+/(\d+)")


def sessions(env: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Environment of every session behind an ``env.json``, each in full."""
    whole = dict(env)
    yield whole
    for changed in env.get("resumed", []):
        whole = whole | changed
        yield whole


def environment_lines(
    records: Iterable[Mapping[str, Any]], names: Sequence[str] = MACHINE
) -> list[str]:
    """Markdown list items, every distinct value named; a blank line first if there are any."""
    found = environment_values(records, names)
    lines = [f"- {name}: {'; '.join(values)}" for name, values in found.items()]
    return lines and ["", *lines]


def environment_values(
    records: Iterable[Mapping[str, Any]], names: Sequence[str] = MACHINE
) -> dict[str, list[str]]:
    """Every distinct value of the parts that the records of all sessions have."""
    every = [session for env in records for session in sessions(env)]
    found = {
        name: list(dict.fromkeys(_text(name, env) for env in every if name in env)) for name in names
    }
    return {name: values for name, values in found.items() if values}


def commands(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Command lines that the cells were run by; those of the slices of one run are one."""
    found = environment_values(records, ["command"]).get("command", [])
    return list(dict.fromkeys(_SLICE.sub(r" slice=<i>/\1", command) for command in found))


def provenance(cells: Sequence[StoredCell]) -> list[str]:
    """One line for everything of :data:`PROVENANCE` that differs between cells: values, and how many
    cells have each. A cell of several sessions counts for the values of each.
    """
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for cell in cells:
        had: dict[tuple[str, str], None] = {}
        for env in sessions(cell.env):
            had |= dict.fromkeys(_values(env))
        for name, value in had:
            counts[name][value] += 1
    return [
        f"cells differ in {name}: "
        + ", ".join(f"{value} ({count} cell{'s'[: count > 1]})" for value, count in found.items())
        for name, found in counts.items()
        if len(found) > 1
    ]


def _values(env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of what can differ, every package by itself."""
    for name in PROVENANCE:
        if name == "versions":
            yield from ((package, str(version)) for package, version in env.get(name, {}).items())
        elif name in env:
            yield name, _text(name, env)


def _text(name: str, env: Mapping[str, Any]) -> str:
    value = env[name]
    if isinstance(value, Mapping):
        shown = {key: item for key, item in value.items() if item != "not installed"}
        return ", ".join(f"{key} {item}" for key, item in shown.items())
    if name == "commit" and env.get("dirty") is True:
        return f"{value} with uncommitted changes"
    return str(value)
