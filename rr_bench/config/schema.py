"""Every setting of a run, declared once: default, help, and whether it is part of a cell's key.

Hydra composes the YAML files over the defaults declared here; what comes out is checked, so that a
misspelt key or a wrong type fails before anything is loaded, with the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from method.attention import BACKENDS
from rr_bench.config.errors import ConfigError, nearest
from rr_bench.config.latency import LatencySettings
from rr_bench.config.latency import check as check_latency
from rr_bench.tasks.settings import DataSettings

LISTS = ("methods", "tasks", "lengths")
VERBS = ("run", "calibrate", "search", "latency")
DECODERS = ("auto", "graph", "generate")
WANDB_MODES = ("disabled", "offline", "online")
KEEP_NAMES = ("paper", "equal", "none")
KEEP_FIELDS = ("sink", "diagonal", "last_row")


def setting(default: Any, help: str, *, key: bool = False) -> Any:
    """A field of the schema.

    Args:
        default: its value where nothing sets it; :data:`omegaconf.MISSING` asks for one.
        help: what it does, for ``--help``.
        key: whether it can change a cell's numbers, and so is part of what identifies them.
    """
    metadata = {"help": help, "key": key}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelSettings:
    """Group ``model``: the files of ``conf/model``, or ``model=<folder, .gguf file or hub id>``."""

    path: str = setting(MISSING, "checkpoint folder, .gguf file, or hub id", key=True)
    name: str | None = setting(None, "name in tables; null: the folder's or file's")
    trust_remote_code: bool = setting(False, "run model code that comes with the checkpoint", key=True)
    allow_extrapolation: bool = setting(False, "run lengths beyond the model's positions")
    rope: Any = setting(
        None, "RoPE settings laid over the checkpoint's own, such as YaRN's (qwen25_7b_yarn)", key=True
    )


@dataclass
class WandbSettings:
    """Group ``wandb``: optional logging to Weights & Biases."""

    mode: str = setting("disabled", "disabled, offline (files only) or online (needs an account)")
    project: str = setting("rr_bench", "project that the run is filed under")


@dataclass
class RunSettings:
    """Everything one run needs."""

    out: str = setting(MISSING, "folder of the results; finished samples found there are kept")
    model: ModelSettings = setting(ModelSettings, "")
    methods: list[Any] = setting(
        MISSING,
        "names from conf/method, or {name: .., <setting>: <value or list>}; lists make a grid",
        key=True,
    )
    tasks: list[str] = setting(MISSING, "tasks or groups of tasks from tasks/", key=True)
    lengths: list[int] = setting(MISSING, "tokens of prompt and answer together", key=True)
    samples: int = setting(MISSING, "samples per cell; the first n are the same for every n")
    keep: Any = setting(
        "paper",
        "blocks that are always computed: paper (each method's own), equal (the same for all), none, "
        "or {sink: .., diagonal: .., last_row: ..}",
        key=True,
    )
    backend: str = setting(
        "auto",
        "kernel of the sparse executor: auto (hopper on capability 9.0, triton on other GPUs, torch "
        "on a CPU), hopper, triton, torch, reference",
        key=True,
    )
    dense_below: int = setting(
        0, "prompts of fewer tokens run dense under every method; 0: never", key=True
    )
    dtype: str = setting(
        "auto",
        "auto (the checkpoint's on a GPU, float32 on a CPU), float32, bfloat16, float16",
        key=True,
    )
    device: str = setting("auto", "auto, cpu or cuda; CUDA_VISIBLE_DEVICES picks one GPU", key=True)
    seed: int = setting(42, "seed of the task data", key=True)
    newline_stop: Any = setting(
        "auto",
        "end generation at a newline token: auto (for RAG, ICL and re-ranking, as the RRAttention "
        "authors ran HELMET), true, or false (as HELMET's own numbers were made)",
        key=True,
    )
    decode: str = setting(
        "auto",
        "how answers are decoded: auto (a CUDA graph where the model allows it), graph, or generate "
        "(transformers' own)",
        key=True,
    )
    data: DataSettings = setting(DataSettings, "")
    verb: str = setting(
        "run",
        "run; calibrate (settings for target_density); search (MInference's patterns of a model); "
        "latency (time kernels and prefills)",
    )
    target_density: float | None = setting(None, "density that verb=calibrate aims at, 0 to 1")
    workers: int = setting(
        1, "processes that share the cells, on the visible GPUs in turn; each loads the model"
    )
    slice: str | None = setting(None, "run only part i of n of the cells: i/n, such as 2/8")
    wandb: WandbSettings = setting(WandbSettings, "")
    latency: LatencySettings = setting(LatencySettings, "")
    dry_run: bool = setting(False, "print the plan and stop")


@dataclass(frozen=True)
class Declared:
    """One declared setting.

    Attributes:
        name: dotted name.
        default: its default; :data:`omegaconf.MISSING` where one has to be given.
        help: what it does.
        key: whether it is part of what identifies a cell's numbers.
    """

    name: str
    default: Any
    help: str
    key: bool


def declared(schema: type = RunSettings, prefix: str = "") -> Iterator[Declared]:
    """Every setting of the schema, nested ones in dotted form."""
    for item in fields(schema):
        nested = item.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from declared(nested, f"{prefix}{item.name}.")
            continue
        default = nested() if nested is not NO_DEFAULT else item.default
        metadata = item.metadata
        yield Declared(
            prefix + item.name, default, str(metadata.get("help", "")), bool(metadata.get("key"))
        )


def known_keys() -> list[str]:
    """All keys of the schema in dotted form, the groups themselves included."""
    names = [item.name for item in declared()]
    return sorted({*names, *(name.partition(".")[0] for name in names)})


def register() -> None:
    """Let ``conf/config.yaml`` compose over the defaults here, as Hydra's config ``schema``."""
    ConfigStore.instance().store("schema", defaults())


def defaults() -> dict[str, Any]:
    """The schema's defaults as nested plain values, for Hydra to compose over."""
    plain = OmegaConf.to_container(OmegaConf.structured(RunSettings))
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


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
    if settings.dense_below < 0:
        raise ConfigError(f"dense_below={settings.dense_below}: a token count, or 0 for never")
    if settings.verb not in VERBS:
        raise ConfigError(f"verb={settings.verb}: {nearest(settings.verb, VERBS)}")
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
    rope = settings.model.rope
    if rope is not None and not (isinstance(rope, Mapping) and "rope_type" in rope):
        raise ConfigError(f"model.rope={rope}: null, or a mapping with at least rope_type")
    if settings.newline_stop not in (True, False, "auto"):
        raise ConfigError(f"newline_stop={settings.newline_stop}: auto, true or false")
    for one in fields(DataSettings):
        value, choices = getattr(settings.data, one.name), one.metadata["choices"]
        if choices and value not in choices:
            raise ConfigError(f"data.{one.name}={value}: {nearest(value, choices)}")
    if settings.decode not in DECODERS:
        raise ConfigError(f"decode={settings.decode}: {nearest(settings.decode, DECODERS)}")
    check_keep(settings.keep)
    check_latency(settings.latency)


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
    """Accept a policy's name, or a mapping of its three switches."""
    if isinstance(keep, Mapping):
        for name, value in keep.items():
            if name not in KEEP_FIELDS:
                raise ConfigError(f"keep.{name} is unknown: {nearest(str(name), KEEP_FIELDS)}")
            if not isinstance(value, bool):
                raise ConfigError(f"keep.{name}={value}: true or false")
    elif keep not in KEEP_NAMES:
        raise ConfigError(f"keep={keep}: {nearest(str(keep), KEEP_NAMES)}, or a mapping of switches")
