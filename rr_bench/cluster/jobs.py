"""A submitted sweep on disk, and as jobs: ``<out>/slurm/<n>/``.

``settings.yaml`` holds the settings with every interpolation resolved, ``tasks.txt`` the cells of each
task, ``environment.sh`` what runs before Python, ``job`` the array's number, ``logs/`` what the jobs
print. A task is an ordinary run of these settings with ``cells=[..]``, and can be repeated by hand.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rr_bench import SLURM
from rr_bench.cluster.slurm import Partition, queued, sbatch
from rr_bench.config.cluster import ClusterSettings
from rr_bench.config.schema import RunSettings
from rr_bench.run.agenda import Work
from rr_bench.store.cells import SHORT, cell_key
from rr_bench.store.environment import COMMAND, SUBMITTED

REPORT_MINUTES = 60
REPORT_GB = 8

_HYDRA: dict[str, Any] = {
    "defaults": [
        "schema",
        "_self_",
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ],
    "hydra": {"run": {"dir": "."}, "output_subdir": None, "job": {"chdir": False}},
}


def short_key(work: Work) -> str:
    """What names a cell in ``cells=[..]``."""
    return cell_key(work.cell.settings)[:SHORT]


def share(pending: Sequence[Work], tasks: int) -> list[list[Work]]:
    """Cells for each task, the costliest first, so that tasks end at about one time."""
    shares: list[list[Work]] = [[] for _ in range(min(tasks, len(pending)))]
    for work in sorted(pending, key=lambda one: -one.tokens):
        min(shares, key=lambda one: sum(other.tokens for other in one)).append(work)
    return shares


def still_queued(out: Path) -> set[str]:
    """Short keys of cells that earlier submissions have in the queue."""
    keys: set[str] = set()
    for job in (out / "slurm").glob("*/job"):
        lines = (job.parent / "tasks.txt").read_text(encoding="utf-8").splitlines()
        for task in queued(job.read_text(encoding="utf-8").strip()):
            keys |= set(re.findall(r"'(\w+)'", lines[task - 1]))
    return keys


class Submission:
    """One array of tasks and its report.

    Args:
        settings: the run's settings.
        shares: cells of each task.
        partition: where the tasks run.
        device: torch's device of the tasks, ``cpu`` or ``cuda``.
    """

    def __init__(
        self, settings: RunSettings, shares: list[list[Work]], partition: Partition, device: str
    ) -> None:
        self.out = Path(settings.out).expanduser().resolve()
        self.settings = replace(settings, out=str(self.out), device=device, action="here", cells=None)
        self.shares, self.partition = shares, partition
        numbers = [int(one.name) for one in (self.out / "slurm").glob("*") if one.name.isdecimal()]
        self.folder = self.out / "slurm" / str(max(numbers, default=0) + 1)

    def write(self) -> None:
        """Write what the jobs will read."""
        (self.folder / "logs").mkdir(parents=True)
        plain = OmegaConf.create({**_HYDRA, **asdict(self.settings)})
        (self.folder / "settings.yaml").write_text(OmegaConf.to_yaml(plain), encoding="utf-8")
        # Quoted: a key may look like a number.
        keys = [",".join(f"'{short_key(one)}'" for one in cells) for cells in self.shares]
        tasks = [f"cells=[{of_task}]" for of_task in keys]
        (self.folder / "tasks.txt").write_text("\n".join(tasks) + "\n", encoding="utf-8")
        # The records name the line that was submitted, not the task's own.
        command = f"export {SUBMITTED}={shlex.quote(os.environ.get(COMMAND, ''))}"
        setup = "\n".join([command, *self.settings.cluster.setup])
        (self.folder / "environment.sh").write_text(setup + "\n", encoding="utf-8")

    def queue(self) -> tuple[str, str]:
        """Queue both jobs; their numbers.

        Raises:
            ClusterError: the cluster does not take them.
        """
        array = sbatch(self._array_options(), self._array_command())
        (self.folder / "job").write_text(array + "\n", encoding="utf-8")
        return array, sbatch(self._report_options(array), self._report_command())

    def try_out(self) -> None:
        """Let the cluster judge a task and the report without queueing them: limits of accounts too.

        Raises:
            ClusterError: they could not be queued.
        """
        script = str(SLURM / "cells.sbatch")
        sbatch(["--test-only", *self._array_options()], [script])
        sbatch(["--test-only", *self._report_options(None)], [str(SLURM / "report.sbatch")])

    def _array_options(self) -> list[str]:
        cluster = self.settings.cluster
        limit = "" if cluster.at_once is None else f"%{cluster.at_once}"
        gpus = f"gpu:{cluster.gpu_type}:" if cluster.gpu_type else "gpu:"
        return [
            f"--array=1-{len(self.shares)}{limit}",
            f"--partition={self.partition.name}",
            f"--cpus-per-task={cluster.cpus}",
            f"--mem={cluster.memory_gb}G",
            *([f"--gres={gpus}{cluster.gpus}"] if cluster.gpus else []),
            f"--time={cluster.minutes}",
            f"--signal=B:USR1@{cluster.grace_s}",
            "--requeue",
            *self._common("%A_%a"),
        ]

    def _report_options(self, array: str | None) -> list[str]:
        cluster = self.settings.cluster
        return [
            *([] if array is None else [f"--dependency=afterany:{array}"]),
            f"--partition={cluster.report_partition or self.partition.name}",
            "--cpus-per-task=1",
            f"--mem={min(REPORT_GB, cluster.memory_gb)}G",
            f"--time={min(REPORT_MINUTES, cluster.minutes)}",
            *self._common("report_%j"),
        ]

    def _common(self, log: str) -> list[str]:
        return [
            "--nodes=1",
            "--ntasks=1",
            f"--job-name=rr_bench_{self.out.name}",
            f"--output={self.folder / 'logs' / log}.log",
            "--open-mode=append",
            f"--chdir={Path.cwd()}",
            *self.settings.cluster.options,
        ]

    def _array_command(self) -> list[str]:
        run = ["rr_bench", "--config-dir", str(self.folder), "--config-name", "settings"]
        restarts = str(self.settings.cluster.restarts)
        script = str(SLURM / "cells.sbatch")
        return [script, str(self.folder), restarts, *python(self.settings.cluster), "-m", *run]

    def _report_command(self) -> list[str]:
        report = [*python(self.settings.cluster), "-m", "rr_bench.report", "--wandb", str(self.out)]
        return [str(SLURM / "report.sbatch"), str(self.folder), *report]


def python(cluster: ClusterSettings) -> list[str]:
    """The command that starts Python in a job."""
    if cluster.container is None:
        return [cluster.python or sys.executable]
    return [*shlex.split(cluster.container), cluster.python or "python3"]
