"""``workers=<n>``: the same table as one process, whatever becomes of a worker.

Tests with whole runs start processes that import torch, which is what takes the seconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import pandas as pd
import pytest
from tqdm import tqdm

from rr_bench.__main__ import main
from rr_bench.config.schema import ModelSettings
from rr_bench.run import workers
from rr_bench.run.console import Console
from rr_bench.run.run import INTERRUPTED, run
from rr_bench.run.workers import Foreman, environments
from tests.runs import errors, lines, summary
from tests.test_agenda import work

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def small(make, smallest):
    """Settings of a run on the smallest model; keywords override."""

    def settings(**changes):
        return make(model=ModelSettings(path=str(smallest), name="tiny"), **changes)

    return settings


def test_two_workers_give_the_table_of_one_process(small, tmp_path, capfd):
    tasks = ["recall_prefill", "json_kv"]
    alone, shared = (small(tasks=tasks, out=str(tmp_path / out)) for out in ("alone", "shared"))
    shared.workers = 2
    assert run(alone) == 0
    capfd.readouterr()
    assert run(shared) == 0
    shown = capfd.readouterr()
    assert shown.out.count("done: ") == 4 and shown.out.count("cells, 4 with work left") == 1
    # The workers' own output is there too, and has no bar of its own.
    assert {total for total in re.findall(r" \d+/(\d+) ", shown.err)} == {"8"} and "8/8" in shown.err
    pd.testing.assert_frame_equal(summary(shared), summary(alone))


def test_a_killed_worker_costs_one_sample_and_is_named(small, tmp_path, monkeypatch, capsys):
    alone, shared = (small(samples=40, out=str(tmp_path / out)) for out in ("alone", "shared"))
    shared.workers = 2
    original, killed = Foreman._count, []

    def count(self, worker, samples):
        original(self, worker, samples)
        if not killed:
            killed.append(worker.name)
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(Foreman, "_count", count)
    assert run(shared) == 1
    (line,) = errors(capsys)
    assert killed[0] in line and "ended by SIGKILL while it ran tiny recall_prefill" in line
    # The other worker has done the rest of its cell.
    assert run(shared) == 0
    assert "2 cells, 0 with work left" in capsys.readouterr().out
    assert run(alone) == 0
    pd.testing.assert_frame_equal(summary(shared), summary(alone))


class Seat:
    """A worker without a process: what it would have sent lies in its pipe."""

    def __init__(self, name: str, *sent: tuple[str, ...]) -> None:
        self.name, self.work, self.last, self.ready = name, None, None, False
        self.pipe, other = multiprocessing.Pipe()
        for message in sent:
            other.send(message)

    idle = False


def test_a_model_that_no_worker_can_load_is_one_error(capsys):
    refused = ("refused", "model", "model.path=x does not load")
    console, bar = Console(), tqdm(total=2)
    seats = [Seat("worker 1", refused), Seat("worker 2", refused)]
    Foreman(seats, [work("a", 1024), work("b", 1024)], console, bar).run()
    assert console.errors == 1
    assert errors(capsys) == ["error: model: model.path=x does not load"]


def test_a_cell_that_ends_two_workers_is_left_out(capsys):
    one = work("a", 1024, left=3)
    one.cell.label = "the cell"
    foreman = Foreman([], [], Console(), tqdm(total=3))
    for name in ("worker 1", "worker 2"):
        seat = Seat(name)
        seat.work, seat.ending = one, lambda: "was ended by SIGSEGV"
        foreman.workers.append(seat)
        foreman._bury(seat)
    first, second = errors(capsys)
    assert "worker 1" in first and first.endswith("the cell is tried again")
    assert "worker 2" in second and second.endswith("the cell is left out")
    assert len(foreman.agenda) == 1  # from the first try


def test_sigterm_ends_all_workers(small, smallest, monkeypatch, capsys, own_signals):
    settings = small(samples=40)
    command = ["rr_bench", f"model={smallest}", "model.name=tiny", "device=cpu", "lengths=[2048]"]
    command += ["methods=[full,{name: rr, tau: 0.5}]", "tasks=[recall_prefill]", "samples=40"]
    workers = []

    def stop(self, worker, samples):
        workers.extend(one.process for one in self.workers)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Foreman, "_count", stop)
        patch.setattr(sys, "argv", [*command, "workers=2", f"out={settings.out}"])
        with pytest.raises(SystemExit) as end:
            main()
    shown = capsys.readouterr()
    assert end.value.code == INTERRUPTED and "interrupted" in shown.out
    assert "Traceback" not in shown.err
    assert len(workers) == 2 and not any(worker.is_alive() for worker in workers)
    for file in Path(settings.out).glob("cells/*/env.json"):
        said = json.loads(file.read_text())["command"]
        assert said.startswith("python -m rr_bench model=…/") and "workers=2" in said
        assert str(Path(settings.out).parent) not in said
    stored = sum(lines(settings).values())
    assert 0 < stored < 80
    settings.samples = stored + 1
    assert run(settings) == 0


def test_each_worker_gets_a_gpu_in_turn_and_its_share_of_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: range(8), raising=False)
    places = environments(3, ["0", "GPU-5"])
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0", "GPU-5", "0"]
    assert {place["OMP_NUM_THREADS"] for place in places} == {"2"}
    assert "CUDA_VISIBLE_DEVICES" not in environments(1, [])[0]
    assert environments(99, [])[0]["OMP_NUM_THREADS"] == "1"
