"""Output that survives a terminal of another encoding, and a reader that has seen enough."""

from __future__ import annotations

import io
import os
import sys


def tolerant_output() -> None:
    """Let characters that standard output or error cannot encode show as ``?`` instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_long(text: str) -> None:
    """Print what may be cut off by a pager or ``head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, or Python complains about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
