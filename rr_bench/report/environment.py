"""What results were measured on, as lines of a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MACHINE = ("device", "driver", "cpu", "os", "python", "versions", "commit")
"""Parts of an environment record that a page names."""


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
    every = [session for env in records for session in sessions(env)]
    lines = []
    for name in names:
        values = dict.fromkeys(_text(name, env) for env in every if name in env)
        if values:
            lines.append(f"- {name}: {'; '.join(values)}")
    return lines and ["", *lines]


def _text(name: str, env: Mapping[str, Any]) -> str:
    value = env[name]
    if isinstance(value, Mapping):
        shown = {key: item for key, item in value.items() if item != "not installed"}
        return ", ".join(f"{key} {item}" for key, item in shown.items())
    if name == "commit" and env.get("dirty") is True:
        return f"{value} with uncommitted changes"
    return str(value)
