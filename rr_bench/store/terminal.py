"""Output that survives a terminal of another encoding."""

from __future__ import annotations

import io
import sys


def tolerant_output() -> None:
    """Let characters that standard output or error cannot encode show as ``?`` instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
