"""What a SLURM cluster says of itself, asked through its own commands."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from rr_bench.config.errors import nearest

UP = ("idle", "mix", "alloc", "comp", "plan", "plnd", "resv")
"""How the states begin of nodes that run jobs, now or later."""

GPUS = re.compile(r"\bgpu:(?:([^:,()]+):)?(\d+)")
TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):\d+")
ANSWER_S = 60


class ClusterError(RuntimeError):
    """The cluster refused, or cannot be asked; the message is the one line the user sees."""


@dataclass(frozen=True)
class Node:
    """What one node has.

    Attributes:
        cpus: cores.
        memory_mb: memory in MiB.
        gpus: GPUs by type, "" where the cluster names none.
    """

    cpus: int
    memory_mb: int
    gpus: dict[str, int]

    def gpus_of(self, kind: str | None) -> int:
        """GPUs of a type, or all."""
        return sum(self.gpus.values()) if kind is None else self.gpus.get(kind, 0)


@dataclass(frozen=True)
class Partition:
    """A partition and the nodes in it that run jobs.

    Attributes:
        name: its name.
        up: whether it starts jobs.
        minutes: its time limit; ``None`` if it has none.
        nodes: nodes that are up.
    """

    name: str
    up: bool
    minutes: int | None
    nodes: list[Node]


def ask(*command: str) -> str:
    """Output of one of SLURM's commands.

    Raises:
        ClusterError: it is not there, does not answer, or refuses.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
    except FileNotFoundError as error:
        raise ClusterError(
            f"{command[0]} is not on this machine: submit from a login node of the cluster"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(f"{command[0]} does not answer: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ClusterError(f"{command[0]} refused: {lines[-1]}")
    return done.stdout


def read_partition(name: str | None) -> Partition:
    """A partition, or the cluster's default one.

    Raises:
        ClusterError: there is none of the name, or no default.
    """
    rows = [line.split("|") for line in ask("sinfo", "-h", "-N", "-o", "%P|%a|%l|%t|%c|%m|%G").split()]
    names = {row[0].rstrip("*") for row in rows}
    if name is None:
        name = next((row[0].rstrip("*") for row in rows if row[0].endswith("*")), None)
        if name is None:
            raise ClusterError(
                f"cluster.partition is not set, and the cluster has no default: one of {sorted(names)}"
            )
    mine = [row for row in rows if row[0].rstrip("*") == name]
    if not mine:
        raise ClusterError(f"cluster.partition={name} is not there: {nearest(name, names)}")
    nodes = [
        Node(int(cpus.rstrip("+")), int(memory.rstrip("+")), read_gpus(gres))
        for *_, state, cpus, memory, gres in mine
        if state.startswith(UP)
    ]
    return Partition(name, mine[0][1] == "up", read_minutes(mine[0][2]), nodes)


def read_gpus(gres: str) -> dict[str, int]:
    """GPUs by type out of a node's generic resources, such as ``gpu:h100:4(S:0-1)``."""
    found: dict[str, int] = {}
    for kind, count in GPUS.findall(gres):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def read_minutes(text: str) -> int | None:
    """A time limit, such as ``2-00:00:00`` or ``30:00``, in minutes; ``None`` if there is none."""
    match = TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return 60 * (24 * days + hours) + minutes


def largest_array() -> int:
    """Most tasks that an array may have."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return 1000 if match is None else int(match[1]) - 1


def queued(job: str) -> set[int]:
    """Tasks of an array that wait or run; empty once the cluster has forgotten it."""
    try:
        answer = ask("squeue", "-h", "-r", "-j", job, "-o", "%K")
    except ClusterError as error:
        if "Invalid job id" in str(error):
            return set()
        raise
    return {int(number) for number in answer.split() if number.isdecimal()}


def sbatch(options: Sequence[str], command: Sequence[str]) -> str:
    """Queue a script with its arguments; the job's number.

    Raises:
        ClusterError: the cluster does not take it.
    """
    return ask("sbatch", "--parsable", *options, *command).strip().partition(";")[0]
