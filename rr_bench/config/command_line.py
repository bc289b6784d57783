"""Command-line overrides before Hydra sees them: short forms, and better errors for typos."""

from __future__ import annotations

import re
from pathlib import Path

from rr_bench import CONF
from rr_bench.config.errors import ConfigError, nearest
from rr_bench.config.schema import known_keys

OVERRIDE = re.compile(
    r"(?P<sign>\+\+|\+|~)?(?P<key>[A-Za-z_][\w./-]*)(?:@[^=]*)?=(?P<value>.*)", re.DOTALL
)

WANDB_SHORT = {"true": "online", "false": "disabled"}


def prepare(arguments: list[str], conf: Path = CONF) -> list[str]:
    """Rewrite and check the arguments of ``python -m rr_bench``.

    ``model=<folder, file or hub id>`` becomes ``model=hf model.path=<...> model.name=<its last part>``,
    ``experiment=`` gets its plus, and ``wandb=true`` or ``wandb=offline`` becomes
    ``wandb.mode=<...>``. Every override must name a setting of the schema, a config group or a
    ``hydra.`` key.

    Args:
        arguments: ``sys.argv[1:]``.
        conf: folder of the config groups.

    Raises:
        ConfigError: a misspelt key or group option, with the nearest valid one.
    """
    groups = group_options(conf)
    prepared: list[str] = []
    for argument in arguments:
        match = OVERRIDE.fullmatch(argument)
        if match is None or argument.startswith("-"):
            prepared.append(argument)
            continue
        key, value = match["key"], match["value"].strip("'\"")
        if key == "model" and value not in groups["model"] and "," not in value:
            prepared += [
                "model=hf",
                f"model.path={_quote(value)}",
                f"model.name={_quote(_name(value))}",
            ]
            continue
        if key == "wandb" and not value.startswith("{"):
            prepared.append(f"wandb.mode={WANDB_SHORT.get(value, value)}")
            continue
        _check(key, value, groups)
        prepared.append(f"+{argument}" if key == "experiment" and not match["sign"] else argument)
    return prepared


def group_options(conf: Path = CONF) -> dict[str, list[str]]:
    """Config groups that take one option each, and their options."""
    return {
        group: [f.stem for f in sorted((conf / group).glob("*.yaml"))]
        for group in ("model", "experiment", "cluster")
    }


def _check(key: str, value: str, groups: dict[str, list[str]]) -> None:
    if key.partition(".")[0].partition("/")[0] == "hydra":
        return
    if key in groups:
        unknown = [name for name in value.split(",") if name not in groups[key]]
        if unknown:
            raise ConfigError(f"{key}={unknown[0]} is unknown: {nearest(unknown[0], groups[key])}")
        return
    valid = {*known_keys(), *groups}
    if key not in valid:
        raise ConfigError(f"unknown setting {key!r}: {nearest(key, valid)}")


def _name(path: str) -> str:
    """A model's name in tables and folders: the last part of its path or hub id."""
    name = Path(path.rstrip("/")).name or path
    return re.sub(r"[^\w.-]+", "_", name.removesuffix(".gguf").removesuffix(".GGUF"))


def _quote(value: str) -> str:
    """A path as a Hydra value: single quotes, so that commas and brackets stay text."""
    return "'" + value.replace("'", "\\'") + "'"
