"""A cell's lock: one writer at a time, on one machine or on several that share a folder.

The lock of the file ``LOCK`` ends with its process, so a killed writer needs no hand. Not every shared
file system passes such locks on between machines. There the file ``HEARTBEAT`` counts, which a writer
touches every :data:`BEAT_S` seconds. Another machine's that stands still for :data:`STALE_S` seconds,
by the waiting process's own clock, is taken over; clocks of machines are never compared. One of this
machine is dead if the lock is free.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import monotonic
from uuid import uuid4

from filelock import FileLock, Timeout

BEAT_S = 15.0
STALE_S = 180.0

Seen = dict[Path, tuple[tuple[str, int], float]]
"""Heartbeats of other machines: what was seen of each, and since when it has stood still."""


class LockError(RuntimeError):
    """Another process is writing this cell."""


@cache
def machine() -> str:
    """This machine as long as it runs, without its name."""
    try:
        known = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        known = platform.node()
    return hashlib.sha256(known.encode()).hexdigest()[:12]


class CellLock:
    """The lock of one cell's folder, which must exist when it is acquired.

    Args:
        folder: of the cell.
        seen: what the process knows of other machines' heartbeats; shared by all its locks.
    """

    def __init__(self, folder: Path, seen: Seen) -> None:
        self._folder, self._seen = folder, seen
        self._file = FileLock(folder / "LOCK", timeout=0)
        self._path = folder / "HEARTBEAT"
        self._text = ""
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the lock, without waiting for it.

        Raises:
            LockError: another process has it, or another machine may have it.
        """
        try:
            self._file.acquire()
        except Timeout as error:
            raise LockError(
                f"{self._folder.name} is being written by another process; wait for it, or run it again"
            ) from error
        try:
            self._check_others()
            self._text = f"{machine()} {uuid4().hex}"
            self._path.write_text(self._text, encoding="ascii")
            self._stop = threading.Event()
            threading.Thread(target=self._beat, args=(self._stop,), daemon=True).start()
        except BaseException:
            self._file.release()
            raise

    def release(self) -> None:
        """Give it back."""
        self._stop.set()
        with suppress(OSError):
            if self.held:
                self._path.unlink()
        self._file.release()

    @property
    def held(self) -> bool:
        """Whether no other machine took it over, because this one's heartbeat stood still."""
        mark = self._mark()
        return mark is not None and mark[0] == self._text

    def _check_others(self) -> None:
        mark = self._mark()
        if mark is None or mark[0].partition(" ")[0] in ("", machine()):
            return
        known = self._seen.get(self._folder)
        if known is None or known[0] != mark:
            known = self._seen[self._folder] = mark, monotonic()
        if monotonic() - known[1] < STALE_S:
            raise LockError(
                f"{self._folder.name} is being written on another machine; it is taken over when its "
                f"heartbeat has stood still for {STALE_S:.0f} s"
            )

    def _mark(self) -> tuple[str, int] | None:
        try:
            return self._path.read_text(
                encoding="ascii", errors="replace"
            ), self._path.stat().st_mtime_ns
        except OSError:
            return None

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            with suppress(OSError):
                if self.held:
                    self._path.touch()
