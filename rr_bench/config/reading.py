"""From a composed config to settings, checked: what is misspelt or impossible ends here.

Every error comes before anything is loaded, and names the setting and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from method.attention import BACKENDS
from rr_bench.config.cluster import check as check_cluster
from rr_bench.config.errors import ConfigError, nearest
from rr_bench.config.latency import check as check_latency
from rr_bench.config.schema import ModelSettings, RunSettings, known_keys
from rr_bench.tasks.settings import DataSettings

LISTS = ("methods", "tasks", "lengths")
VERBS = ("run", "calibrate", "search", "latency", "diagnose")
ACTIONS = ("here", "submit")
DEVICE_MAPS = (None, "auto", "balanced", "balanced_low_0", "sequential")
DECODERS = ("auto", "graph", "generate")
POSITIONS = ("original", "transformers")
WANDB_MODES = ("disabled", "offline", "online")
KEEP_NAMES = ("paper", "equal", "none")
KEEP_FIELDS = ("sink", "diagonal", "last_row")


def read_settings(config: DictConfig | Mapping[str, Any]) -> RunSettings:
    """Check a composed config and turn it into :class:`RunSettings`.

    Raises:
        ConfigError: an unknown key, a missing value, a wrong type or an impossible value.
    """
    composed = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    if not isinstance(plain, dict):
        raise ConfigError("the config must be a mapping of settings")
    _check_keys(plain, known_keys(), "")
    for name in LISTS:
        value = plain.get(name, MISSING)
        if value != MISSING and not isinstance(value, list):
            raise ConfigError(f"{name}={value} must be a list: {name}=[{value}]")
    _check_members(plain)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunSettings), plain)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"{missing[0]} is not set: add {missing[0]}=<value>")
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key}: {reason}" if key else reason) from error
    if not isinstance(settings, RunSettings):
        raise ConfigError("the config does not make up a run")
    _check_values(settings)
    return settings


def _check_keys(plain: Mapping[Any, Any], keys: list[str], prefix: str) -> None:
    """Compare nested keys with the schema; lists and free-form values are left to their readers."""
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if key not in keys:
            raise ConfigError(f"unknown setting {key!r}: {nearest(key, keys)}")
        if isinstance(value, Mapping) and any(known.startswith(f"{key}.") for known in keys):
            _check_keys(value, keys, f"{key}.")


def _check_members(plain: Mapping[Any, Any], prefix: str = "") -> None:
    """Lists hold plain values, those of methods and of kept blocks apart, which have their readers."""
    for name, value in plain.items():
        if isinstance(value, Mapping):
            _check_members(value, f"{prefix}{name}.")
        elif isinstance(value, list) and not str(name).endswith(("methods", "keep")):
            for member in value:
                if member is None or isinstance(member, list | Mapping):
                    raise ConfigError(f"{prefix}{name} holds {str(member)[:80]}: plain values only")


def _check_dense_below(settings: RunSettings) -> None:
    """A token count, or "auto" where cells are run and there is a table."""
    below = settings.dense_below
    if below == "auto":
        if settings.verb != "run":
            raise ConfigError(f"dense_below=auto: verb={settings.verb} needs a token count, or 0")
        if settings.crossover is None:
            raise ConfigError("dense_below=auto: crossover=<folder of a latency experiment> is needed")
    elif not isinstance(below, int) or below < 0:
        raise ConfigError(f"dense_below={below}: a token count, or 0 for never")


def _check_values(settings: RunSettings) -> None:
    """Impossible values that no later stage could name as well."""
    for name in LISTS:
        values = getattr(settings, name)
        if not values:
            raise ConfigError(f"{name} is empty: nothing to run")
        if len({str(value) for value in values}) != len(values):
            raise ConfigError(f"{name}={values} lists something twice")
    if settings.samples < 1:
        raise ConfigError(f"samples={settings.samples}: at least 1 is needed")
    if any(length < 1 for length in settings.lengths):
        raise ConfigError(f"lengths={settings.lengths}: lengths are token counts above 0")
    if settings.backend not in BACKENDS:
        raise ConfigError(f"backend={settings.backend}: {nearest(settings.backend, BACKENDS)}")
    _check_dense_below(settings)
    if settings.verb not in VERBS:
        raise ConfigError(f"verb={settings.verb}: {nearest(settings.verb, VERBS)}")
    if settings.action not in ACTIONS:
        raise ConfigError(f"action={settings.action}: {nearest(settings.action, ACTIONS)}")
    if settings.action == "submit":
        _check_submission(settings)
    if settings.workers < 1:
        raise ConfigError(f"workers={settings.workers}: at least 1 is needed")
    if settings.workers > 1 and settings.verb != "run":
        raise ConfigError(f"workers={settings.workers}: verb={settings.verb} runs in one process")
    if settings.slice is not None:
        parse_slice(settings.slice)
    if settings.wandb.mode not in WANDB_MODES:
        raise ConfigError(
            f"wandb.mode={settings.wandb.mode}: {nearest(settings.wandb.mode, WANDB_MODES)}"
        )
    target = settings.target_density
    if settings.verb == "calibrate" and (target is None or not 0 < target < 1):
        raise ConfigError(f"target_density={target}: a calibration needs a share between 0 and 1")
    _check_model(settings.model)
    if settings.newline_stop not in (True, False, "auto"):
        raise ConfigError(f"newline_stop={settings.newline_stop}: auto, true or false")
    for one in fields(DataSettings):
        value, choices = getattr(settings.data, one.name), one.metadata["choices"]
        if choices and value not in choices:
            raise ConfigError(f"data.{one.name}={value}: {nearest(value, choices)}")
    if settings.decode not in DECODERS:
        raise ConfigError(f"decode={settings.decode}: {nearest(settings.decode, DECODERS)}")
    _check_together(settings)
    check_keep(settings.keep)
    if isinstance(settings.keep, list) and settings.verb not in ("run", "diagnose"):
        raise ConfigError(f"keep={settings.keep}: verb={settings.verb} takes one rule")
    check_latency(settings.latency)


def _check_together(settings: RunSettings) -> None:
    """Whether samples can be decoded together as far as that is known without the model."""
    together = settings.decode_together
    if together < 1:
        raise ConfigError(f"decode_together={together}: at least 1 is needed")
    if together > 1 and settings.decode == "generate":
        raise ConfigError(
            f"decode_together={together}: decode=generate takes one sample at a time; leave one out"
        )


def _check_model(model: ModelSettings) -> None:
    """Impossible values of the group ``model``."""
    if model.device_map not in DEVICE_MAPS:
        raise ConfigError(
            f"model.device_map={model.device_map}: "
            f"{nearest(model.device_map, filter(None, DEVICE_MAPS))}"
        )
    if model.positions not in POSITIONS:
        raise ConfigError(f"model.positions={model.positions}: {nearest(model.positions, POSITIONS)}")
    rope = model.rope
    if rope is not None and not (isinstance(rope, Mapping) and "rope_type" in rope):
        raise ConfigError(f"model.rope={rope}: null, or a mapping with at least rope_type")


def _check_submission(settings: RunSettings) -> None:
    """What ``action=submit`` cannot do."""
    check_cluster(settings.cluster)
    if settings.verb != "run":
        raise ConfigError(f"action=submit: verb={settings.verb} runs in one process; start it there")
    if not settings.whole:
        raise ConfigError("action=submit chooses the cells of each task: leave slice and cells out")
    gpus = settings.cluster.gpus
    if gpus > 1 and settings.workers == 1 and settings.model.device_map is None:
        raise ConfigError(
            f"cluster.gpus={gpus}: a run uses one GPU; set workers={gpus}, or model.device_map=auto "
            "for a model that is larger than one"
        )


def parse_slice(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers, 1 <= i <= n.

    Raises:
        ConfigError: the text is nothing of the kind.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise ConfigError(f"slice={text}: i/n with i from 1 to n, such as slice=2/8")


def check_keep(keep: Any) -> None:
    """Accept a policy's name, a mapping of its three switches, or a list of those."""
    if isinstance(keep, list) and keep and not any(isinstance(one, list) for one in keep):
        for one in keep:
            check_keep(one)
    elif isinstance(keep, Mapping):
        for name, value in keep.items():
            if name not in KEEP_FIELDS:
                raise ConfigError(f"keep.{name} is unknown: {nearest(str(name), KEEP_FIELDS)}")
            if not isinstance(value, bool):
                raise ConfigError(f"keep.{name}={value}: true or false")
    elif keep not in KEEP_NAMES:
        raise ConfigError(f"keep={keep}: {nearest(str(keep), KEEP_NAMES)}, or a mapping of switches")
