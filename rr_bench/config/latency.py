"""The group ``latency``: its settings, their checks, and the shapes that are timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rr_bench.config.errors import ConfigError, nearest

LEVELS = ("ceiling", "attention", "selection", "both", "host", "layer", "prefill")
FAMILIES = ("llama", "qwen2")


@dataclass(frozen=True)
class Geometry:
    """The shape of a model whose prefill is timed with random weights.

    Attributes:
        name: name in the table.
        family: ``llama``, or ``qwen2`` (biases on queries, keys and values).
        layers: decoder layers.
        hidden: width of the residual stream.
        mlp: width of the MLP.
        heads: query heads.
        kv_heads: KV heads.
        dim: head size.
        vocab: tokens of the vocabulary.
    """

    name: str
    family: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    dim: int
    vocab: int

    @property
    def last_layer(self) -> int:
        """Index of the last layer, which is sparse even where methods leave the first ones dense."""
        return self.layers - 1


GEOMETRIES = {
    one.name: one
    for one in (
        # Their config.json on the Hugging Face hub.
        Geometry("llama31_8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256),
        Geometry("qwen25_7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064),
    )
}


@dataclass
class LatencySettings:
    """Group ``latency``: what ``verb=latency`` times; the fields say what they mean."""

    levels: list[str] = field(
        default_factory=lambda: list(LEVELS),
        metadata={
            "help": "In the order in which they are measured: ceiling (matrix product, copy), "
            "attention, selection, both (selection and attention), host (time that the host takes to "
            "queue both), layer (one decoder layer), prefill (whole model)."
        },
    )
    models: list[Any] = field(
        default_factory=lambda: list(GEOMETRIES),
        metadata={
            "help": f"Shapes with random weights: {', '.join(GEOMETRIES)}, or {{name: .., family: "
            "llama or qwen2, layers: .., hidden: .., mlp: .., heads: .., kv_heads: .., dim: .., "
            "vocab: ..}."
        },
    )
    captured: bool = field(
        default=True,
        metadata={
            "help": "Also time queries and keys captured from a prompt of `model` (first of `tasks`, "
            "middle layer)."
        },
    )
    densities: list[float] = field(
        default_factory=lambda: [1.0, 0.5, 0.35, 0.2],
        metadata={"help": "Random block masks that the kernels are compared on."},
    )
    replay: list[float] = field(
        default_factory=lambda: [0.35, 0.5],
        metadata={
            "help": "Random masks that stand in for what methods select from random inputs; layer and "
            "prefill take the first."
        },
    )
    prefill_methods: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names out of `methods` for the level prefill; of several settings of one method "
            "the first is taken."
        },
    )
    prefill_dense: Any = field(
        default=None,
        metadata={
            "help": "Dense back ends of the level prefill, such as [cudnn, fa3]; null: all there are."
        },
    )
    graph: bool = field(
        default=False,
        metadata={
            "help": "Level prefill: capture every prefill in a CUDA graph, and time its replay; "
            "back ends are then named +graph."
        },
    )
    calls: int = field(default=20, metadata={"help": "Timed calls of each row."})
    budget_ms: float = field(
        default=4000.0,
        metadata={
            "help": "Milliseconds of device time for all rows of a level, model and length together: "
            "where these run out fewer calls are made, at least 3."
        },
    )
    budget_s: Any = field(
        default=None,
        metadata={
            "help": "Seconds after which a level begins nothing new: null, a number, or a mapping by "
            "level."
        },
    )

    def limit_s(self, level: str) -> float:
        """Seconds that a level may take before it begins no new group."""
        limit = self.budget_s.get(level) if isinstance(self.budget_s, Mapping) else self.budget_s
        return float("inf") if limit is None else float(limit)


def check(latency: LatencySettings) -> None:
    """Refuse impossible values.

    Raises:
        ConfigError: the message names the setting.
    """
    for level in latency.levels:
        if level not in LEVELS:
            raise ConfigError(f"latency.levels: unknown level {level!r}: {nearest(level, LEVELS)}")
    for name in ("levels", "densities", "replay"):
        values = getattr(latency, name)
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"latency.{name}={values} is empty or lists something twice")
    for name in ("densities", "replay"):
        values = getattr(latency, name)
        if not all(0 < density <= 1 for density in values):
            raise ConfigError(f"latency.{name}={values}: shares above 0, at most 1")
    if latency.calls < 1 or latency.budget_ms <= 0:
        raise ConfigError("latency.calls and latency.budget_ms must be above 0")
    for entry in latency.models:
        read_geometry(entry)
    _check_limits(latency.budget_s)


def _check_limits(limits: Any) -> None:
    """``budget_s``: seconds, one number or one for each level; null is no limit."""
    by_level = limits if isinstance(limits, Mapping) else {LEVELS[0]: limits}
    for level, limit in by_level.items():
        if level not in LEVELS:
            raise ConfigError(
                f"latency.budget_s: unknown level {level!r}: {nearest(str(level), LEVELS)}"
            )
        if limit is not None and not isinstance(limit, int | float):
            raise ConfigError(f"latency.budget_s={limits}: seconds, one number or one for each level")


def read_geometry(entry: Any) -> Geometry:
    """One entry of ``latency.models``: a known name, or a mapping of :class:`Geometry`'s fields.

    Raises:
        ConfigError: an unknown name or field, or a missing or impossible value.
    """
    if isinstance(entry, str):
        if entry not in GEOMETRIES:
            raise ConfigError(f"latency.models: unknown {entry!r}: {nearest(entry, GEOMETRIES)}")
        return GEOMETRIES[entry]
    if not isinstance(entry, Mapping):
        raise ConfigError(f"latency.models: {entry!r} is neither a name nor a mapping of a shape")
    types = {item.name: str if item.name in ("name", "family") else int for item in fields(Geometry)}
    for key in entry:
        if key not in types:
            raise ConfigError(f"latency.models: unknown field {key!r}: {nearest(str(key), types)}")
    for key, kind in types.items():
        value = entry.get(key)
        if not isinstance(value, kind) or (isinstance(value, int) and value < 1):
            raise ConfigError(f"latency.models: {key}={value}: {kind.__name__} above 0 is needed")
    if entry["family"] not in FAMILIES:
        raise ConfigError(
            f"latency.models: family={entry['family']}: {nearest(entry['family'], FAMILIES)}"
        )
    if entry["heads"] % entry["kv_heads"]:
        raise ConfigError(
            f"latency.models: heads={entry['heads']} is no multiple of kv_heads={entry['kv_heads']}"
        )
    return Geometry(**entry)
