"""``workers=<n>``: several processes on one store, one plan, one progress bar, one report.

The parent hands each worker one cell at a time over a pipe, so that a fast worker takes more, and
hears of every stored sample through it. Cells are handed out longest first and are not split: what
the last ones cost is what workers may wait for each other. A pipe that ends is a worker that ended:
its cell goes to another one, which starts behind the last stored sample. The store's locks hold
whatever else runs on the same folder: a cell that somebody writes comes back later.
"""

from __future__ import annotations

import os
from multiprocessing.connection import wait
from typing import Any

import torch
from tqdm import tqdm

from rr_bench.config.schema import RunSettings
from rr_bench.plan.cells import ModelFacts
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.agenda import RETRY_S, Agenda, Work
from rr_bench.run.console import Console
from rr_bench.run.work import Outcome
from rr_bench.run.worker import GRACE_S, Worker

MOST_TRIES = 2
"""Workers that may end over one cell before it is left out."""


class Foreman:
    """Hands out cells and turns what the workers send into lines and progress.

    Args:
        workers: those that are running.
        pending: the cells.
        console: where lines go.
        bar: one progress bar over all samples.
    """

    def __init__(
        self, workers: list[Worker], pending: list[Work], console: Console, bar: tqdm[Any]
    ) -> None:
        self.workers, self.console, self.bar = workers, console, bar
        self.agenda = Agenda(pending, longest_first=True)
        self._refusals: set[str] = set()

    def run(self) -> None:
        """Until every cell is done, or no worker is left."""
        while self.workers:
            for worker in self.workers:
                self._provide(worker)
            if not len(self.agenda) and not any(worker.work for worker in self.workers):
                return
            pipes = {worker.pipe: worker for worker in self.workers}
            for pipe in wait(list(pipes), timeout=RETRY_S):
                self._listen(pipes[pipe])  # type: ignore[index]
        if len(self.agenda):
            self.console.say(f"{len(self.agenda)} cells are left: run the same command to go on")

    def _provide(self, worker: Worker) -> None:
        if worker.idle:
            work = self.agenda.take(worker.last.point if worker.last else None)
            if work is not None:
                worker.give(work)
                self.bar.set_description(work.cell.label)

    def _listen(self, worker: Worker) -> None:
        """Take one message of a worker, or note its end."""
        try:
            kind, *content = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "sample":
            self._count(worker, 1)
        elif kind == "say":
            self.console.say(*content)
        elif kind == "error":
            self.console.error(*content)
        elif kind == "refused":
            # All workers load the same model, and one line says why they could not.
            if str(content) not in self._refusals:
                self.console.error(*content)
            self._refusals.add(str(content))
            self.workers.remove(worker)
        elif kind == "ready":
            worker.ready = True
        else:
            self._end_cell(worker, Outcome(kind))

    def _count(self, worker: Worker, samples: int) -> None:
        if worker.work is not None:
            worker.work.left -= samples
            self.bar.update(samples)

    def _end_cell(self, worker: Worker, outcome: Outcome) -> None:
        work, worker.work = worker.work, None
        if work is None:
            return
        if outcome is Outcome.LOCKED:
            self.agenda.put_back(work)
        else:
            self.bar.update(max(work.left, 0))
        if outcome is Outcome.LOST:
            self.workers.remove(worker)

    def _bury(self, worker: Worker) -> None:
        """Name a worker that ended by itself, and give its cell to another, at the very end."""
        self.workers.remove(worker)
        work, ending = worker.work, worker.ending()
        if work is None:
            self.console.error(worker.name, f"{ending} without a cell")
            return
        work.tries += 1
        again = work.tries < MOST_TRIES
        fate = "the cell is tried again" if again else "the cell is left out"
        self.console.error(
            worker.name, f"{ending} while it ran {work.cell.label}: its running sample is lost, {fate}"
        )
        if again:
            self.agenda.put_back(work)


def run_workers(
    settings: RunSettings, model: ModelFacts, pending: list[Work], console: Console
) -> None:
    """Run the cells in ``settings.workers`` processes of their own; see the module.

    Raises:
        KeyboardInterrupt: the run was interrupted; all workers have ended.
    """
    count = min(settings.workers, len(pending))
    gpus = visible_gpus(model.device.capability)
    places = environments(count, shares(gpus, settings.workers) if settings.model.device_map else gpus)
    workers: list[Worker] = []
    with tqdm(total=sum(work.left for work in pending), unit="sample", smoothing=0.1) as bar:
        try:
            for number, place in enumerate(places, 1):
                workers.append(Worker(f"worker {number}", settings, model, place))
            Foreman(list(workers), pending, console, bar).run()
        except BaseException:
            for worker in workers:
                worker.process.terminate()
            raise
        finally:
            _close(workers)


def _close(workers: list[Worker]) -> None:
    """Wait for all processes to end, those that hang apart."""
    for worker in workers:
        worker.dismiss()
    for worker in workers:
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def visible_gpus(capability: str | None) -> list[str]:
    """GPUs that this process may use, named as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        capability: that of the GPU the run was planned for; others would give other cells. ``None``
            on a CPU, which needs no GPU.
    """
    if capability is None:
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = [str(i) for i in range(count)] if told is None else told.split(",")[:count]
    found = [".".join(map(str, torch.cuda.get_device_capability(i))) for i in range(count)]
    return [name.strip() for name, one in zip(names, found, strict=True) if one == capability]


def shares(gpus: list[str], workers: int) -> list[str]:
    """GPUs for each of several workers that spread their model: equally many, none shared.

    Raises:
        CheckpointError: there are fewer GPUs than workers.
    """
    each = len(gpus) // workers
    if not each:
        raise CheckpointError(
            f"workers={workers} with model.device_map needs a GPU for each worker at least, and "
            f"{len(gpus)} are visible"
        )
    return [",".join(gpus[each * number : each * (number + 1)]) for number in range(workers)]


def environments(workers: int, gpus: list[str]) -> list[dict[str, str]]:
    """What each worker's environment says: its GPU, in turn, and its share of the cores.

    Args:
        workers: how many there will be.
        gpus: names of GPUs; empty on a CPU.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // workers))
    told = os.environ.get("OMP_NUM_THREADS", threads)
    shared = {"OMP_NUM_THREADS": told, "RAYON_NUM_THREADS": threads}
    return [
        shared | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {})
        for number in range(workers)
    ]
