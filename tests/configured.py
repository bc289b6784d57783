"""Settings as the command line would compose them, for the tests."""

from __future__ import annotations

from typing import Any

import yaml

from rr_bench import CONF
from rr_bench.config.reading import read_settings
from rr_bench.config.schema import RunSettings, defaults

DEFAULTS = defaults() | {
    name: value
    for name, value in yaml.safe_load((CONF / "config.yaml").read_text()).items()
    if name not in ("defaults", "hydra")
}


def settings(**changes: Any) -> RunSettings:
    """Settings of ``conf/config.yaml`` with changes."""
    model = DEFAULTS["model"] | {"path": "somewhere", "name": "some"} | changes.pop("model", {})
    changes.pop("defaults", None)
    return read_settings({**DEFAULTS, "model": model, **changes})
