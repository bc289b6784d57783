"""Keep the machine out of what is stored: records are committed and read elsewhere.

Stored paths are relative to the repository; of a path outside it only the last part is kept, so no
user name, mount point or home folder ever reaches a results folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rr_bench import ROOT

_ABSOLUTE = re.compile(r"(?<![\w./:~…])(?:~|/[\w.@+=-]+)(?:/[\w.@+=-]+)*/([\w.@+=-]+)")


def stored_path(path: Path) -> str:
    """A path as records name it: relative to the repository, or the last part alone."""
    absolute = path.resolve()
    if absolute.is_relative_to(ROOT):
        return absolute.relative_to(ROOT).as_posix()
    return absolute.name


def redact(text: str) -> str:
    """A message with its absolute paths shortened: relative inside the repository, else ``…/name``."""
    home = os.path.expanduser("~")  # stays as it is where there is no home directory
    for prefix, short in ((f"{ROOT}/", ""), (f"{home}/", "~/")):
        text = text.replace(prefix, short)
    return _ABSOLUTE.sub(r"…/\1", text)
