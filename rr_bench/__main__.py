"""``python -m rr_bench``: compose the settings with Hydra and run them."""

from __future__ import annotations

import signal
import sys

import hydra
from omegaconf import DictConfig

from rr_bench import CONF
from rr_bench.config.command_line import prepare
from rr_bench.config.schema import ConfigError, RunSettings, read_settings
from rr_bench.run.run import run

USAGE_ERROR = 2


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _composed(config: DictConfig) -> None:
    try:
        settings = read_settings(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    sys.exit(VERBS[settings.verb](settings))


def _calibrate(settings: RunSettings) -> int:
    # Imported here, and so below, because a run that has nothing left to do starts without torch.
    from rr_bench.run.calibrate import calibrate

    return calibrate(settings)


def _search(settings: RunSettings) -> int:
    from rr_bench.run.pattern_search import search

    return search(settings)


def _latency(settings: RunSettings) -> int:
    from rr_bench.latency.experiment import latency

    return latency(settings)


VERBS = {"run": run, "calibrate": _calibrate, "search": _search, "latency": _latency}


def main() -> None:
    """Check the command line, then hand over to Hydra."""
    # A batch system's SIGTERM ends a run as Ctrl-C does: locks released, samples kept.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.argv[1:] = prepare(sys.argv[1:])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    _composed()


if __name__ == "__main__":
    main()
