"""What a run tells people: lines around a progress bar, errors counted, one line each."""

from __future__ import annotations

import sys

from tqdm import tqdm

from rr_bench.store.redact import redact


class Console:
    """Lines for people, printed around the progress bar; counts the errors."""

    def __init__(self) -> None:
        self.errors = 0
        self._shown: list[str] = []

    def say(self, text: str) -> None:
        """Print to standard output."""
        with tqdm.external_write_mode():
            print(text, flush=True)

    def error(self, where: str, text: object) -> None:
        """Print one error line and remember that there was one."""
        self.errors += 1
        line = " ".join(str(text).split())
        self._shown.append(redact(line))
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"error: {where}: {line}", file=sys.stderr, flush=True)

    def problem(self, text: str) -> None:
        """Print what the report had to leave out, unless it was an error before; counts as one."""
        self.errors += 1
        if any(shown in redact(text) for shown in self._shown):
            return
        with tqdm.external_write_mode(file=sys.stderr):
            print(f"problem: {text}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
