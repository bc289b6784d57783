"""A throw-away SLURM of one node on this machine, without systemd, cgroups, munge or accounting."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "sbatch", "sinfo", "squeue", "scontrol", "scancel")
PATIENCE_S = 30

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={next_port}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
KillWait=5
MaxArraySize=101
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
PartitionName=closed Nodes={host} MaxTime=60 State=DOWN
"""


def why_not() -> str | None:
    """Why SLURM cannot be started here; ``None`` if it can."""
    missing = [name for name in COMMANDS if _where(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurm-wlm"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


def _where(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class SlurmNode:
    """The two daemons and where their configuration lies.

    Args:
        folder: for all files; short, since sockets lie there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        host = socket.gethostname().partition(".")[0]
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
        self.conf = folder / "slurm.conf"
        facts = {"host": host, "folder": folder, "memory_mb": memory * 9 // 10}
        # A machine with fewer cores takes the jobs as well: nobody pins them.
        facts |= {"cpus": max(os.cpu_count() or 1, 4), **_ports()}
        self.conf.write_text(CONF.format(**facts))
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both daemons and wait until the node takes jobs."""
        for name in ("slurmctld", "slurmd"):
            command, log = [_where(name) or name, "-D"], self.folder / f"{name}.out"
            with log.open("wb") as file:
                self.daemons.append(
                    subprocess.Popen(command, env=self.environment, stdout=file, stderr=file)
                )
        deadline = time.monotonic() + PATIENCE_S
        while self.ask("sinfo", "-h", "-p", "main", "-o", "%t") != "idle":
            if time.monotonic() > deadline:
                logs = [path.read_text()[-1500:] for path in self.folder.glob("*.[lo]*")]
                raise RuntimeError("SLURM does not come up:\n" + "\n".join(logs))
            time.sleep(0.2)

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        self.ask("scancel", "--full", "--user=root")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints, whatever its status."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        return done.stdout.strip()


def _ports() -> dict[str, int]:
    """Two free ports."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return {"port": one.getsockname()[1], "next_port": other.getsockname()[1]}
