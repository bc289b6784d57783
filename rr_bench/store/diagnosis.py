"""What a cell's ``diagnosis.json`` holds: attention mass inside a method's blocks, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rr_bench.store.checks import COUNT, SHARE, in_range, shown
from rr_bench.store.jsonl import StoreError

VERSION = 1
"""Raised by hand when the numbers change: older diagnoses are then made again."""

TABLES = (
    "density",
    "mass",
    "worst",
    "oracle_mass",
    "oracle_worst",
    "oracle_max_mass",
    "oracle_max_worst",
)
"""Tables ``[layers][heads]``, means over prompts: see :mod:`rr_bench.model.held_mass`. ``oracle_`` and
``oracle_max_`` are of as many blocks in every query row, chosen by the summed and the largest mass."""


def check_diagnosis(found: Mapping[str, Any] | None, where: str) -> None:
    """Check ``diagnosis.json``.

    Raises:
        StoreError: it is nothing that a diagnosis wrote.
    """
    if found is None:
        return
    if not isinstance(found, Mapping):
        raise StoreError(f"{where}: diagnosis.json must hold an object")
    for name in ("version", "prompts"):
        if type(found.get(name)) is not int or not in_range(found[name], COUNT):
            raise StoreError(f"{where}: diagnosis.json: {name}={shown(found.get(name))} is no count")
    layers = found.get("layers")
    if not isinstance(layers, list) or not layers or not all(type(one) is int for one in layers):
        raise StoreError(f"{where}: diagnosis.json: layers must be a list of numbers")
    heads = {len(row) if isinstance(row, list) else 0 for row in _rows(found, "density")}
    for name in TABLES:
        rows = _rows(found, name)
        if len(rows) != len(layers) or len(heads) != 1 or not all(map(_shares, rows)):
            raise StoreError(f"{where}: diagnosis.json: {name} must hold shares by layer and head")
        if {len(row) for row in rows} != heads:
            raise StoreError(f"{where}: diagnosis.json: {name} has other heads than density")


def _rows(found: Mapping[str, Any], name: str) -> list[Any]:
    rows = found.get(name)
    return rows if isinstance(rows, list) else []


def _shares(row: Any) -> bool:
    return (
        isinstance(row, list)
        and bool(row)
        and all(type(one) in (int, float) and in_range(one, SHARE) for one in row)
    )
