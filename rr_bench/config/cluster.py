"""The group ``cluster``: what a job asks SLURM for, and what it runs in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rr_bench.config.errors import ConfigError


def _setting(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class ClusterSettings:
    """Group ``cluster``: the files of ``conf/cluster``, for ``action=submit``."""

    partition: str | None = _setting(None, "partition; null: the cluster's default")
    gpus: int = _setting(1, "GPUs of a task; 0: it runs on CPUs")
    gpu_type: str | None = _setting(None, "their type as the cluster names it, such as h100")
    capability: str | None = _setting(
        None, "their compute capability, such as '9.0' (H100): it is part of what identifies a cell"
    )
    cpus: int = _setting(8, "cores of a task")
    memory_gb: int = _setting(64, "memory of a task in GiB")
    hours: float = _setting(8.0, "time limit of a task; what is left then goes back into the queue")
    tasks: int | None = _setting(None, "tasks that share the cells; null: one for each cell")
    at_once: int | None = _setting(None, "most tasks that run at a time; null: no limit")
    restarts: int = _setting(20, "how often a task goes back into the queue at its time limit")
    grace_s: int = _setting(120, "seconds before the time limit at which it puts its work away")
    report_partition: str | None = _setting(None, "partition of the report; null: the same")
    options: list[str] = _setting([], "more options for sbatch, such as ['--account=lab']")
    setup: list[str] = _setting([], "lines of shell that run first, such as ['module load cuda']")
    container: str | None = _setting(
        None, "what runs python in a container, such as 'apptainer exec --nv image.sif'"
    )
    python: str | None = _setting(
        None, "interpreter; null: the one that submits, or python3 in a container"
    )

    @property
    def minutes(self) -> int:
        """The time limit as SLURM keeps it."""
        return max(1, round(self.hours * 60))


def check(cluster: ClusterSettings) -> None:
    """Refuse numbers that no cluster can have.

    Raises:
        ConfigError: the first of them, with the remedy.
    """
    for name in ("gpus", "cpus", "memory_gb", "restarts", "grace_s", "tasks", "at_once"):
        value, bound = getattr(cluster, name), 0 if name in ("gpus", "restarts") else 1
        if value is not None and value < bound:
            raise ConfigError(f"cluster.{name}={value}: at least {bound} is needed")
    if not 0 < cluster.hours < float("inf"):
        raise ConfigError(f"cluster.hours={cluster.hours}: a time limit above 0")
    if cluster.grace_s >= 60 * cluster.minutes:
        raise ConfigError(
            f"cluster.grace_s={cluster.grace_s} leaves nothing of cluster.hours={cluster.hours}: a "
            "task would go back into the queue as soon as it starts"
        )
    if cluster.gpus and cluster.capability is None:
        raise ConfigError(
            "cluster.capability is not set: cells are identified by the compute capability of their "
            "GPU, so give that of the partition's, such as cluster.capability='9.0' for an H100"
        )
