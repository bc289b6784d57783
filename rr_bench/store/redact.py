"""Keep the machine out of what is stored: records are committed and read elsewhere.

Stored paths are relative to the repository; of a path outside it only the last part is kept, so no
user name, mount point or home folder ever reaches a results folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rr_bench import ROOT

_ABSOLUTE = re.compile(r"(?<![\w./:~…])(?:~|/[\w.@+=-]+)(?:/[\w.@+=-]+)*/([\w.@+=-]+)")


def stored_path(path: Path) -> str:
    """A path as records name it: relative to the repository, or the last part alone."""
    absolute = path.resolve()
    if absolute.is_relative_to(ROOT):
        return absolute.relative_to(ROOT).as_posix()
    return absolute.name


def redacted(value: Any) -> Any:
    """Settings with every path in them as records name it."""
    if isinstance(value, dict):
        return {name: redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return stored_path(Path(value))
    return value


def redact(text: str) -> str:
    """A message with its absolute paths shortened: relative inside the repository, else ``…/name``."""
    home = os.path.expanduser("~")  # stays as it is where there is no home directory
    for prefix, short in ((f"{ROOT}/", ""), (f"{home}/", "~/")):
        text = text.replace(prefix, short)
    return _ABSOLUTE.sub(r"…/\1", text)
