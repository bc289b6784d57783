"""Kill a small sweep again and again and see that its store always comes out the same.

``python -m tests.killing <folder> every``: before and after each call of one sweep that reaches the
operating system; ``every/9`` leaves out eight of nine.
``python -m tests.killing <folder> <n>``: at ``n`` random moments, two processes racing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rr_bench.store.cells import CellWriter, Store
from rr_bench.store.reading import read_store
from rr_bench.store.stored import StoredCell
from tests.fabricate import FULL, RR, open_cell, record

METHODS = (FULL, RR)
FILE_CALLS = ("posix", "_io", "fcntl", "io")


class Sweep:
    """Stands for a loaded model: cells are scored by their number, in the run's own loop."""

    def __init__(self, samples: int, pause: float) -> None:
        self.settings = SimpleNamespace(samples=samples, out="", lengths=[4096])
        self._pause = pause

    def open_cell(self, cell: Any, store: Store) -> CellWriter:
        return open_cell(store.out, cell.method, length=cell.length)

    def run_cell(self, cell: Any, writer: CellWriter, progress: Callable[[Any], None]) -> None:
        for number in range(self.settings.samples):
            if str(number) not in writer.finished:
                time.sleep(self._pause)
                writer.append(record(str(number), number / 100, length=cell.length))
        writer.finish(self.settings.samples)


class Quiet:
    """Takes lines; an error ends the process with status 3."""

    def say(self, text: str) -> None:
        """Nobody listens."""

    def error(self, where: str, text: object) -> None:
        os.write(2, f"{where}: {text}\n".encode())
        os._exit(3)


def sweep(out: Path, samples: int, lengths: list[int], pause: float = 0.0) -> None:
    """One run of all cells, as :func:`rr_bench.run.work.run_here` does it."""
    import rr_bench.run.work
    from rr_bench.run.agenda import Work

    session = Sweep(samples, pause)
    session.settings.out = str(out)
    rr_bench.run.work.load = lambda *ignored: session  # type: ignore[assignment]
    work = []
    for length in lengths:
        for method in METHODS:
            task = SimpleNamespace(name="json_kv", version=1)
            settings = {"data": {"source": "generated"}}
            label = f"{method['label']}-{length}"
            cell = SimpleNamespace(
                method=method, task=task, length=length, label=label, settings=settings
            )
            work.append(Work(cell, samples))  # type: ignore[arg-type]
    rr_bench.run.work.run_here(session.settings, None, work, Quiet())  # type: ignore[arg-type]


def plain_sweep(out: Path) -> None:
    """The same cells one by one, without torch in memory, so that a process is started in no time."""
    for method in METHODS:
        cell = open_cell(out, method)
        if not cell.done(2):
            with cell:
                for number in range(2):
                    if str(number) not in cell.finished:
                        cell.append(record(str(number), number / 100))
                cell.note_data({"dropped": {}})
                cell.finish(2)


def forked(run: Callable[[], None]) -> int:
    """Start a function in a process of its own."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2) if not os.environ.get("LOUD") else None
    status = 4
    try:
        run()
        status = 0
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """How it ended: its status, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(call: int, run: Callable[[], None]) -> Callable[[], None]:
    """The function, killed at a numbered call to the operating system: even before it, odd after it."""

    def watched() -> None:
        seen = 0

        def count(frame: Any, event: str, called: Any) -> None:
            nonlocal seen
            if event not in ("c_call", "c_return"):
                return
            owner = called.__module__ or type(getattr(called, "__self__", None)).__module__
            if owner in FILE_CALLS:
                if seen == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.setprofile(count)
        run()
        sys.setprofile(None)

    return watched


def contents(out: Path) -> dict[str, StoredCell]:
    """The cells of a store that has no problem, no partial file and no torn line."""
    cells, problems = read_store(out)
    assert not problems, problems
    assert not list(out.rglob("*.partial")), list(out.rglob("*.partial"))
    assert not any(cell.torn for cell in cells)
    return {cell.info.key: cell for cell in cells}


def every_call(folder: Path, step: int) -> int:
    """Kill at every ``step``-th call and run again; how many calls there were."""
    whole = folder / "whole"
    assert ended(forked(lambda: plain_sweep(whole))) == 0
    expected, call, out = contents(whole), 0, folder / "killed"

    def run() -> None:
        plain_sweep(out)

    while True:
        shutil.rmtree(out, ignore_errors=True)
        status = ended(forked(killed_at(call, run)))
        if status == 0:
            return call
        assert status == -signal.SIGKILL, f"call {call}: status {status}"
        status = ended(forked(run))
        assert status == 0, f"after a kill at call {call}: status {status}"
        assert contents(out) == expected, f"after a kill at call {call}"
        call += step


def racing(folder: Path, kills: int, seed: int = 1) -> int:
    """Kill one of two processes at random moments until there were enough kills; rounds finished."""
    import rr_bench.run.work

    rr_bench.run.work.RETRY_S = rr_bench.run.agenda.RETRY_S = 0.02
    rng = random.Random(seed)
    lengths = [4096, 8192, 16384]

    def run(out: Path) -> Callable[[], None]:
        return lambda: sweep(out, 10, lengths, 0.002)

    assert ended(forked(run(folder / "whole"))) == 0
    expected, done, rounds = contents(folder / "whole"), 0, 0
    while done < kills:
        out = folder / f"round{rounds}"
        workers = [forked(run(out)) for _ in range(2)]
        for _ in range(rng.randint(1, 8)):
            time.sleep(rng.random() * 0.05)
            place = rng.randrange(2)
            os.kill(workers[place], signal.SIGKILL)
            done += ended(workers[place]) == -signal.SIGKILL
            workers[place] = forked(run(out))
        statuses = [ended(worker) for worker in workers]
        assert statuses == [0, 0], f"round {rounds}: {statuses}"
        assert contents(out) == expected, f"round {rounds}"
        shutil.rmtree(out)
        rounds += 1
    return done


if __name__ == "__main__":
    place, how = Path(sys.argv[1]), sys.argv[2]
    print(every_call(place, int(how[6:] or 1)) if how[:5] == "every" else racing(place, int(how)))
