"""What the parts of a stored cell must hold, and how they must fit each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from rr_bench.store.checks import COUNT, SHARE, in_range, shown
from rr_bench.store.jsonl import StoreError
from rr_bench.store.records import CellInfo

_FINGERPRINT = re.compile(r"@([0-9a-f]{12})$")


def check_readable(info: CellInfo, where: str) -> None:
    """Hold what people read of a cell, names and labels, against the settings that the key hashes.

    Raises:
        StoreError: the two differ.
    """
    settings, method = info.settings, info.method
    hashed = settings.get("method")
    if not isinstance(hashed, Mapping) or not isinstance(hashed.get("params"), Mapping):
        raise StoreError(f"{where}: settings.method must have name and params")
    params, label, knob = method["params"], method["label"], method.get("knob")
    told = _FINGERPRINT.search(info.model["path"])
    inside = dict(part.partition("=")[::2] for part in label[len(method["name"]) + 1 : -1].split(", "))
    differing = {
        "method.name": hashed.get("name") != method["name"],
        "method.params": any(params.get(name) != value for name, value in hashed["params"].items()),
        "method.dense": method["dense"] != (settings.get("keep") is None),
        "method.label": not label.startswith(method["name"])
        or (knob in inside and knob in params and inside[knob] != str(params[knob])),
        "model.path": told is not None and not settings["model"].startswith(told[1]),
    }
    for name, differs in differing.items():
        if differs:
            raise StoreError(f"{where}: {name} does not fit the settings; cell.json was edited")


def check_environment(env: Mapping[str, Any], where: str) -> None:
    """Check ``env.json``.

    Raises:
        StoreError: sessions or versions are nothing that a run wrote.
    """
    if env and not all(isinstance(env.get(name), str) for name in ("device", "time")):
        raise StoreError(f"{where}: env.json must name `device` and `time`")
    later = env.get("resumed", [])
    sessions = [env, *later] if isinstance(later, list) else [None]
    if not all(isinstance(one, Mapping) and _mapping(one.get("versions", {})) for one in sessions):
        raise StoreError(f"{where}: env.json must hold `versions` by package, `resumed` sessions")


def check_data(data: Mapping[str, Any] | None, where: str) -> None:
    """Check ``data.json``.

    Raises:
        StoreError: counts of rows are nothing that a run wrote.
    """
    if data is None:
        return
    lost = data.get("gold_lost", {})
    groups = [data.get("dropped"), data.get("flagged", {})]
    if not (
        _mapping(lost) and _count(lost.get("count", 0)) and _mapping(data.get("unknown_fields", {}))
    ):
        raise StoreError(f"{where}: data.json: gold_lost or unknown_fields are no counts")
    for group in groups:
        if not _mapping(group) or not all(map(_named_rows, group.values())):
            raise StoreError(f"{where}: data.json: dropped and flagged rows must be counted and named")


def check_judged(judged: Mapping[str, Any] | None, uids: Collection[str], where: str) -> None:
    """Check ``judged.json``.

    Raises:
        StoreError: a judged metric lacks something, lies outside 0..1 or covers unknown samples.
    """
    for metric, found in (judged or {}).items():
        if not _mapping(found) or not isinstance(found.get("uids"), list):
            raise StoreError(f"{where}: judged.json: {shown(metric)} must have value and uids")
        value = found.get("value")
        if type(value) not in (int, float) or not in_range(value, SHARE):
            raise StoreError(f"{where}: judged.json: {shown(metric)}={shown(value)} lies outside 0..1")
        if unknown := [uid for uid in found["uids"] if uid not in uids]:
            raise StoreError(f"{where}: judged.json: {shown(metric)} judges {shown(unknown[0])}")


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _count(value: Any) -> bool:
    return type(value) is int and in_range(value, COUNT)


def _named_rows(found: Any) -> bool:
    first = found.get("first") if _mapping(found) else None
    return (
        isinstance(first, list)
        and all(type(one) is str for one in first)
        and _count(found.get("count"))
    )
