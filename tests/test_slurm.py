"""A sweep on a real SLURM of one node, with everything that happens to tasks there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from rr_bench import ROOT
from rr_bench.__main__ import main
from tests.runs import TIMES
from tests.slurm_node import SlurmNode, why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"no SLURM to start: {why_not()}"),
    # What starts and stops them all is one module.
    pytest.mark.timeout(600),
]

PATIENCE_S = 120

# Hangs for good once a task has stored its first sample, in those that are named and never restarted.
HANG = """
import os, time
task, real = os.environ.get("SLURM_ARRAY_TASK_ID"), os.fsync
def fsync(file):
    real(file)
    if os.readlink(f"/proc/self/fd/{file}").endswith("samples.jsonl"):
        time.sleep(600)
if task in "123" and "SLURM_RESTART_COUNT" not in os.environ:
    os.fsync = fsync
"""
PYTHON = """#!/bin/sh
echo $$ > {folder}/pid.$SLURM_ARRAY_TASK_ID
PYTHONPATH={folder}:$PYTHONPATH exec {python} "$@"
"""


@pytest.fixture(scope="module")
def node() -> Iterator[SlurmNode]:
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    node = SlurmNode(folder)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, node: SlurmNode) -> Callable[..., int]:
    """``python -m rr_bench`` in this process, on the login node; its exit status."""
    environment = {"SLURM_CONF": str(node.conf), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(signal, "signal", lambda *ignored: None)

    def status(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rr_bench", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return status


def sweep(model: Path, out: Path, samples: int = 3) -> list[str]:
    """Four cells, whose folder is named by an interpolation."""
    return [
        *(f"model={model}", "model.name=tiny", "device=cpu", f"out={out}/${{model.name}}"),
        *("methods=[full,{name: rr, tau: 0.5}]", "tasks=[recall_prefill,json_kv]"),
        *("lengths=[2048]", f"samples={samples}"),
    ]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def summary(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "tiny" / "summary.csv").drop(columns=TIMES)


def stored(out: Path, cell: str = "") -> int:
    """Lines of samples in the whole store, or in the cells of a name."""
    files = out.rglob(f"*{cell}*/samples.jsonl")
    return sum(len(file.read_text().splitlines()) for file in files)


def test_a_sweep_survives_a_kill_a_cancel_and_the_time_limit(node, call, smallest, tmp_path, capsys):
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert call(*sweep(smallest, alone)) == 0
    capsys.readouterr()
    (tmp_path / "sitecustomize.py").write_text(HANG)
    wrapper = tmp_path / "python"
    wrapper.write_text(PYTHON.format(folder=tmp_path, python=sys.executable))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    small = ["cluster.cpus=1", "cluster.memory_gb=1", "cluster.at_once=2", "cluster.hours=0.5"]
    submit = [*sweep(smallest, out), "action=submit", "cluster=cpu", "cluster.grace_s=90", *small]
    assert call(*submit, f"cluster.python={wrapper}") == 0
    shown = capsys.readouterr().out
    assert "4 cells, 4 with work left" in shown and "4 tasks, 2 at a time" in shown
    job, report = re.search(r"array (\d+) with 4 tasks, report (\d+)", shown).groups()

    def running() -> list[str]:
        tasks = node.ask("squeue", "-h", "-r", "-t", "R", "-j", job, "-o", "%K").split()
        assert len(tasks) <= 2
        return tasks

    def idle() -> bool:
        return not (running() or node.ask("squeue", "-h"))

    # Tasks 1 and 2 hang with a sample each. The first has one to two minutes left now, at which SLURM
    # looks every half; the second is killed, the third in its place cancelled, the fourth goes past.
    wait_until(lambda: stored(out) == 2 and sorted(running()) == ["1", "2"])
    ran = node.ask("squeue", "-h", "-j", f"{job}_1", "-o", "%M").partition(":")[0]
    node.ask("scontrol", "update", f"job={job}_1", f"TimeLimit={int(ran) + 2}")
    assert call(*submit) == 0
    assert "4 of them are in the queue already" in capsys.readouterr().out
    os.kill(int((tmp_path / "pid.2").read_text()), signal.SIGKILL)
    wait_until(lambda: stored(out, "json_kv_2048_full") == 1)
    node.ask("scancel", f"{job}_3")
    logs = out / "tiny" / "slurm" / "1" / "logs"
    wait_until(lambda: "back into the queue" in (logs / f"{job}_1.log").read_text())
    node.ask("scontrol", "update", f"job={job}_1", "TimeLimit=30")
    wait_until(idle)
    assert (out / "tiny" / "summary.csv").is_file() and (logs / f"report_{report}.log").stat().st_size
    assert stored(out) == 2 * 3 + 2

    assert call(*submit, "wandb=offline") == 0
    shown = capsys.readouterr().out
    assert "4 cells, 2 with work left" in shown
    job = re.search(r"array (\d+) with 2 tasks", shown)[1]
    wait_until(idle)
    pd.testing.assert_frame_equal(summary(out), summary(alone))
    assert stored(out) == 12  # nothing was scored twice
    assert len(list(out.glob("tiny/wandb/offline-run-*"))) == 1
    assert call(*submit) == 0
    assert "nothing to queue" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["cluster.gpus=1", "cluster.capability='9.0'"], "cluster.gpus=1: no node of partition main"),
        (["cluster.memory_gb=100000"], "cluster.memory_gb=100000: no node"),
        (["cluster.hours=2"], "cluster.hours=2: partition main ends jobs after 1 hours"),
        (["cluster.partition=mian"], "did you mean 'main'"),
        (["cluster.partition=closed"], "partition closed is down"),
        (
            ["cluster.options=['--constraint=fast']"],
            "sbatch refused: allocation failure: Invalid feature",
        ),
    ],
)
def test_what_cannot_start_is_not_queued(node, call, smallest, tmp_path, capsys, changes, words):
    small = ["cluster.cpus=1", "cluster.memory_gb=1", "cluster.hours=0.5"]
    assert call(*sweep(smallest, tmp_path), "action=submit", "cluster=cpu", *small, *changes) == 1
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert words in line and "4 with work left" in shown.out
    assert not (tmp_path / "tiny" / "slurm").exists() and not node.ask("squeue", "-h")


@pytest.mark.skipif(not shutil.which("sbatch"), reason="no SLURM")
def test_a_sweep_of_hydra_runs_every_job_there_and_ends_with_the_worst_status(node, smallest, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    jobs = ["-m", *sweep(smallest, tmp_path, samples=1), "seed=1,0.5", "dry_run=true"]
    launcher = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=5",
        "hydra.launcher.mem_gb=1",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rr_bench", *jobs, *launcher],
        env={**node.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done.stderr
    logs = [path.read_text() for path in tmp_path.rglob("*_log.out")]
    assert sum("4 cells, 4 with work left" in log for log in logs) == 1
