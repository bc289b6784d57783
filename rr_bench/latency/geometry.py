"""Shapes of the models whose prefill is timed with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rr_bench.config.schema import ConfigError, nearest

FAMILIES = ("llama", "qwen2")


@dataclass(frozen=True)
class Geometry:
    """What the work of a prefill depends on; no weights.

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
