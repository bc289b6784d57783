"""``dense_below``: which prompts run dense, by a number or by what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rr_bench.config.errors import ConfigError
from rr_bench.config.registry import MethodSpec
from rr_bench.config.schema import RunSettings
from rr_bench.plan.model_facts import Device
from rr_bench.store.crossover import Shape, crossover, crossovers, write_crossovers
from rr_bench.store.jsonl import StoreError
from rr_bench.store.latency_table import Row


def dense_below(
    settings: RunSettings, config: Mapping[str, Any], device: Device, method: MethodSpec
) -> int:
    """Tokens below which a method runs dense.

    Args:
        settings: the run's settings.
        config: of the model.
        device: where it runs.
        method: the method.

    Raises:
        ConfigError: it is "auto", and nothing was measured for this model, GPU and method.
    """
    if method.dense or settings.dense_below != "auto":
        return 0 if method.dense else int(settings.dense_below)
    try:
        return crossover(Path(settings.crossover or ""), attention_shape(config, device), method.label)
    except StoreError as error:
        raise ConfigError(str(error)) from error


def record_crossovers(
    folder: Path, model: str, config: Mapping[str, Any], device: Device, rows: Iterable[Row]
) -> None:
    """Write what ``dense_below=auto`` reads, if a model's own queries and keys were timed.

    Args:
        folder: of the latency experiment.
        model: the model's name in its rows.
        config: of the model.
        device: where it was timed.
        rows: of the table.
    """
    tokens = crossovers(rows, model)
    if tokens:
        write_crossovers(folder, attention_shape(config, device), tokens)


def attention_shape(config: Mapping[str, Any], device: Device) -> Shape:
    """The shape of a model's attention on a device."""
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    return Shape(device.name, heads, kv_heads, dim)
