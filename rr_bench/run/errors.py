"""What ends a sample, a cell or a run, and the line that says so."""

from __future__ import annotations

from rr_bench.model.memory import OutOfMemory
from rr_bench.run.console import one_line


class CellFailed(RuntimeError):
    """A cell cannot go on; the message is the one line the user sees."""


class SampleFailed(CellFailed):
    """A cell cannot go on because of one sample, which is stored with its error."""


class DeviceLost(RuntimeError):
    """The device answers no more: nothing else can run in this process."""


def describe(error: Exception, length: int) -> str:
    """One line that names the cause, and the setting where it is known."""
    text = one_line(error)
    if isinstance(error, OutOfMemory):
        return f"lengths={length}: {text}. Leave that length out, or use dtype=bfloat16 or a larger GPU"
    return text
