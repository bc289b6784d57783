"""``python -m rr_bench``: compose the settings with Hydra and run them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from rr_bench import CONF
from rr_bench.run.status import INTERRUPTED, STOPPED
from rr_bench.store.terminal import print_long, tolerant_output

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rr_bench.config.schema import RunSettings

USAGE_ERROR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run what the command line asks for; SIGTERM or Ctrl-C ends it with one line."""
    # Before the imports of what runs, which take seconds and stand in functions for that reason.
    for number in _SIGNALS:
        signal.signal(number, _leave)
    tolerant_output()
    try:
        _start()
    except KeyboardInterrupt:
        print(STOPPED)
        sys.exit(INTERRUPTED)


def _leave(number: int, frame: object) -> None:
    """End at once: nothing has to be undone yet, and an exception can get lost inside an import."""
    os.write(sys.stdout.fileno(), f"{STOPPED}\n".encode())
    os._exit(INTERRUPTED)


def verbs() -> dict[str, Callable[[RunSettings], int]]:
    """What the settings can ask for."""
    from rr_bench.cluster.submit import submit
    from rr_bench.latency.experiment import latency
    from rr_bench.run.calibrate import calibrate
    from rr_bench.run.diagnose import diagnose
    from rr_bench.run.pattern_search import search
    from rr_bench.run.run import run

    return {
        "run": run,
        "calibrate": calibrate,
        "search": search,
        "diagnose": diagnose,
        "latency": latency,
        "submit": submit,
    }


def perform(config: DictConfig) -> int:
    """Run one composed config; its exit status."""
    from rr_bench.config.errors import ConfigError
    from rr_bench.config.reading import read_settings

    try:
        settings = read_settings(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    return verbs()["submit" if settings.action == "submit" else settings.verb](settings)


def _start() -> None:
    """Check the command line, then hand over to Hydra; the worst status of all jobs is the exit's."""
    from rr_bench.config.command_line import prepare
    from rr_bench.config.errors import ConfigError
    from rr_bench.config.help import help_text
    from rr_bench.config.schema import register
    from rr_bench.store.environment import COMMAND, SUBMITTED

    if {"--help", "-h"} & set(sys.argv[1:]):
        print_long(help_text())
        return
    own = shlex.join(["python", "-m", "rr_bench", *sys.argv[1:]])
    os.environ[COMMAND] = os.environ.get(SUBMITTED) or own
    try:
        sys.argv[1:] = prepare(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    register()
    verbs()
    # A batch system's SIGTERM ends a run as Ctrl-C does: locks released, samples kept.
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    # A launcher such as submitit_slurm runs the jobs elsewhere, and Hydra hands back nothing of them.
    elsewhere = any(argument.startswith("hydra/launcher=") for argument in sys.argv[1:])
    with TemporaryDirectory(prefix=".rr_bench_", dir=".") if elsewhere else nullcontext() as folder:
        sys.exit(run_jobs(None if folder is None else Path(folder).resolve()))


def run_jobs(folder: Path | None) -> int:
    """Compose the settings of every job and run it; the worst status.

    Args:
        folder: where jobs of other processes leave their status.
    """
    import hydra

    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def composed(config: DictConfig) -> None:
        status = perform(config)
        statuses.append(status)
        if folder is not None:
            (folder / uuid4().hex).write_text(str(status), encoding="utf-8")

    composed()
    if folder is not None:
        statuses = [int(file.read_text(encoding="utf-8")) for file in folder.iterdir()]
    return max(statuses, default=0)


if __name__ == "__main__":
    main()
