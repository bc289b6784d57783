"""One worker process: the parent's view of it, and its life on the other end of the pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import ModelFacts
from rr_bench.run.agenda import Work
from rr_bench.run.work import Outcome, load, run_cell
from rr_bench.store.cells import Store

GRACE_S = 30.0
"""Seconds a worker has to put its cell away when the run is interrupted."""


class Worker:
    """One process and the cell it has, seen from the parent.

    Args:
        name: what it is called in lines.
        settings: the run's settings.
        model: the model to load.
        environment: variables that are set for it, such as its GPU.
    """

    def __init__(
        self, name: str, settings: RunSettings, model: ModelFacts, environment: Mapping[str, str]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.work: Work | None = None
        self.last: Work | None = None
        self.ready = False
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=serve, args=(settings, model, other), name=name, daemon=True
        )
        with _inherited(environment):
            self.process.start()
        # Only the child holds the other end now, so its end is the pipe's.
        other.close()

    @property
    def idle(self) -> bool:
        """Whether it waits for a cell."""
        return self.ready and self.work is None

    def give(self, work: Work) -> None:
        """Let it run a cell; one that has just ended is found out when its pipe is read."""
        self.work = self.last = work
        with suppress(OSError):
            self.pipe.send(work)

    def dismiss(self) -> None:
        """Let it end once it has nothing to do."""
        self.pipe.close()

    def ending(self) -> str:
        """How its process ended."""
        self.process.join(GRACE_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


@contextmanager
def _inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process gets that is started inside: variables, and deaf ears for Ctrl-C.

    A terminal sends Ctrl-C to all its processes; the parent alone decides what becomes of the workers.
    """
    before = {name: os.environ.get(name) for name in environment}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _Relay:
    """A worker's lines on their way to the parent's console."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, text: str) -> None:
        self.pipe.send(("say", text))

    def error(self, where: str, text: object) -> None:
        self.pipe.send(("error", where, str(text)))


class _Loading(_Relay):
    """The same while the model loads: an error is the worker's last word."""

    def error(self, where: str, text: object) -> None:
        self.pipe.send(("refused", where, str(text)))


def serve(settings: RunSettings, model: ModelFacts, pipe: Connection) -> None:
    """A worker's life: load the model, run the cells that come, end with the pipe.

    SIGTERM ends it as Ctrl-C ends a run: the lock released, the stored samples kept.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        session = load(settings, model, _Loading(pipe))
        if session is None:
            return
        store, relay = Store(settings.out), _Relay(pipe)
        pipe.send(("ready",))
        while True:
            outcome = run_cell(session, pipe.recv(), store, lambda _: pipe.send(("sample",)), relay)
            pipe.send((outcome.value,))
            if outcome is Outcome.LOST:
                return
