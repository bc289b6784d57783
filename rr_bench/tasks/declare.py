"""How a setting ``data.*`` is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

Applies = Callable[[str, str], bool]
"""(task, source of its rows) to whether a setting can change them."""


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    path: bool = False,
    key: Applies | None = None,
) -> Any:
    """A field with its metadata.

    Args:
        default: its value where nothing sets it.
        text: what it does.
        choices: the words it takes, if it takes only some.
        path: it names an existing path.
        key: for which tasks it is part of a result's identity; None: the rows depend on it through
            file hashes at most.
    """
    return field(default=default, metadata={"help": text, "choices": choices, "path": path, "key": key})
