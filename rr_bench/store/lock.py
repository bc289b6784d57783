"""A lock file that says who holds it, for one writer per cell on a shared file system."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path


class LockError(RuntimeError):
    """Another process holds the lock; the message says which and what to do."""


class FileLock:
    """Exclusive lock: a file made with ``O_EXCL`` that holds host and process id.

    A lock whose process is gone on this host is stale and is taken over. Whether a process on
    another host still runs cannot be known from here, so such a lock counts as held.

    Args:
        path: the lock file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_time(os.getpid()),
        }
        self._held = False

    def acquire(self) -> None:
        """Take the lock, or raise :class:`LockError`."""
        for _ in range(2):
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                self._clear_if_stale()
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self._owner, file)
            self._held = True
            return
        raise LockError(
            f"{self.path} was taken by another process while it was being cleared; run again"
        )

    def release(self) -> None:
        """Give the lock back. Does nothing when this object does not hold it."""
        if self._held:
            self._held = False
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _clear_if_stale(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        try:
            owner = json.loads(text)
            host, pid, started = owner["host"], int(owner["pid"]), owner["started"]
        except (ValueError, KeyError, TypeError) as error:
            raise LockError(
                f"{self.path} is unreadable; delete it if no run is writing this cell"
            ) from error
        if host != self._owner["host"] or _is_running(pid, started):
            raise LockError(
                f"{self.path} is held by process {pid} on {host}; wait for it, "
                "or delete the file if that run is gone"
            )
        self._remove(text)

    def _remove(self, seen: str) -> None:
        """Remove the stale lock, unless another process replaced it since it was read."""
        aside = self.path.with_name(f"{self.path.name}.stale-{os.getpid()}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        try:
            if aside.read_text(encoding="utf-8") != seen:
                os.link(aside, self.path)
                raise LockError(f"{self.path} was taken by another process; run again")
        finally:
            aside.unlink(missing_ok=True)


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` after the command name, None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def _start_time(pid: int) -> str | None:
    """Start of a process in clock ticks since boot; None where there is no ``/proc``."""
    stat = _stat_fields(pid)
    return stat[19] if stat else None


def _is_running(pid: int, started: str | None) -> bool:
    """Whether that very process runs: a zombie or a re-used process id does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs under another user
    stat = _stat_fields(pid)
    if stat is None:
        return True  # no /proc on this system, but the id is alive
    return stat[0] != "Z" and started in (None, stat[19])
