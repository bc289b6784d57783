"""Whether a kernel was compiled, or read from Triton's cache, while something was timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass
class Compiles:
    """Kernels that became ready inside :func:`compiles`."""

    count: int = 0


@contextmanager
def compiles() -> Iterator[Compiles]:
    """Count the kernels that Triton compiles or loads meanwhile; none where it is not installed."""
    seen = Compiles()
    if find_spec("triton") is None:
        yield seen
        return
    from triton import knobs

    before = knobs.compilation.listener

    def listen(**event: Any) -> None:
        seen.count += 1
        if before is not None:
            before(**event)

    knobs.compilation.listener = listen
    try:
        yield seen
    finally:
        knobs.compilation.listener = before
