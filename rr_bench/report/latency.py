"""The latency experiment's part of a report: its rows, beside the strongest dense attention.

A row is one case: a level (what was timed), a model's shape, inputs, a method on a back end, a length
and a density. A row that is not done has no numbers, whatever its fields hold, so that nothing that
failed can look fast. Rows of two devices or two drivers are refused together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench.report.environment import sessions
from rr_bench.report.style import length_label
from rr_bench.store.jsonl import read_json
from rr_bench.store.latency_table import DONE, MEASURES, TEXTS, Row, TableError, read_rows

LEVELS = {
    "prefill": "whole prefill",
    "layer": "one decoder layer",
    "both": "selection + attention",
    "host": "host time to queue selection + attention",
    "selection": "selection alone",
    "attention": "attention alone",
    "ceiling": "ceilings",
}
"""Levels in the order of the page, with their titles."""

DENSITY = 0.35
"""Where rows have set densities, figures by length show the one nearest to this."""

INPUTS = ("replay", "captured", "random")
"""Inputs by preference: a figure of methods shows the first of these that its level has."""

RIVALS = {"flex_attention": "flex_attention", "fa4": "FA4 block-sparse"}
"""Block-sparse kernels of others, by their back end: names for people."""

_DENSE_NAMES = {"cudnn": "cuDNN", "fa2": "FA2", "fa3": "FA3", "fa4": "FA4"}


@dataclass(frozen=True)
class Latency:
    """The rows of one device.

    Attributes:
        frame: the columns of :class:`rr_bench.store.latency_table.Row`, with measures of rows that are
            not done NaN, and those of :func:`_beside_dense`.
        device: name of the device.
        env: the environment record beside it; empty without one.
    """

    frame: pd.DataFrame
    device: str
    env: dict[str, Any]

    @property
    def done(self) -> pd.DataFrame:
        """The rows that were measured."""
        return self.frame[self.frame["status"] == DONE]


def read_latency(folder: Path) -> Latency:
    """Read ``latency.csv``, and ``env.json`` if it is there.

    Raises:
        StoreError: a file is unreadable, a row contradicts itself, or rows are of different devices or
            drivers.
    """
    path = folder / "latency.csv"
    rows = read_rows(path)
    env = read_json(folder / "env.json") if (folder / "env.json").is_file() else {}
    device = _one_device(rows, env, path)
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__dataclass_fields__))
    numbers = [name for name in frame if name not in TEXTS]
    frame = frame.astype(dict.fromkeys(numbers, float)).fillna(dict.fromkeys(TEXTS, ""))
    frame.loc[frame["status"] != DONE, list(MEASURES)] = float("nan")
    return Latency(_beside_dense(frame), device, env)


def _one_device(rows: Iterable[Row], env: Mapping[str, Any], path: Path) -> str:
    """The device of all rows: theirs if they name it, else the environment's."""
    every = list(sessions(env)) if env else []
    drivers = dict.fromkeys(str(one["driver"]) for one in every if "driver" in one)
    recorded = dict.fromkeys(str(one["device"]) for one in every if "device" in one)
    devices = dict.fromkeys(row.device for row in rows if row.device) or recorded
    for kind, found in (("devices", devices), ("drivers", drivers)):
        if len(found) > 1:
            raise TableError(
                f"{path}: rows of {len(found)} {kind} ({'; '.join(found)}) are never put into one "
                "table or figure; measure each one into a folder of its own"
            )
    return next(iter(devices), "unknown device")


def _beside_dense(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what the strongest dense back end, the fastest that was measured, makes of every row.

    ``strongest`` and ``speedup``: its name at the row's level, model and length, and its time over the
    row's. Of a selection, which replaces no attention: its name in attention alone, and under
    ``of_dense`` the selection's time over its.
    """
    dense = frame[(frame["method"] == "full") & frame["median_ms"].notna()]
    group = ["level", "model", "length"]
    attention = dense[dense["level"].isin(["both", "attention"])].assign(level="selection")
    fastest = pd.concat([dense, attention]).sort_values("median_ms").drop_duplicates(group)
    fastest = fastest.set_index(group)[["backend", "median_ms"]]
    best = fastest.reindex(pd.MultiIndex.from_frame(frame[group])).set_axis(frame.index)
    ratio = best["median_ms"] / frame["median_ms"]
    selection = frame["level"] == "selection"
    return frame.assign(
        strongest=best["backend"].map(dense_name, na_action="ignore"),
        speedup=ratio.mask(selection),
        of_dense=(1 / ratio).where(selection),
    )


def dense_name(backend: str) -> str:
    """A dense back end's name for people: ``dense:cudnn`` is cuDNN."""
    name = backend.removeprefix("dense:")
    return _DENSE_NAMES.get(name, name)


def strongest_text(rows: pd.DataFrame) -> str:
    """The strongest dense back end of these rows; with the lengths of each where there are several."""
    named = rows[rows["strongest"].notna()].sort_values("length")
    names = {
        str(name): " ".join(length_label(int(one)) for one in own["length"].unique())
        for name, own in named.groupby("strongest", sort=False)
    }
    if len(names) < 2:
        return next(iter(names), "none")
    return ", ".join(f"{name} at {lengths}" for name, lengths in names.items())


def methods_at(rows: pd.DataFrame, level: str) -> pd.DataFrame:
    """Rows of a level that a figure by length shows, with the column ``series``.

    Of the sparse methods those of the preferred inputs and, per length, of the density nearest to
    :data:`DENSITY`; the back end joins the name only where a method has several at one length.
    """
    own = rows[(rows["level"] == level) & (rows["method"] != "full")]
    inputs = next((name for name in INPUTS if (own["inputs"] == name).any()), None)
    own = own[own["inputs"] == inputs]
    case = ["method", "backend", "length"]
    own = own.assign(away=(own["density"] - DENSITY).abs()).sort_values("away").drop_duplicates(case)
    several = own.groupby(["method", "length"])["backend"].transform("nunique") > 1
    both = several.groupby(own["method"]).transform("any")
    series = own["method"].where(~both, own["method"] + ", " + own["backend"])
    return own.assign(series=series).sort_values("length")


def density_text(rows: pd.DataFrame) -> str:
    """The density behind rows in whole percent, or its range."""
    low, high = (round(100 * float(end)) for end in (rows["density"].min(), rows["density"].max()))
    return f"density {low} %" if low == high else f"densities {low} to {high} %"


def dense_lines(rows: pd.DataFrame, level: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Back end and rows of every dense attention timed at a level, one row per length."""
    dense = rows[(rows["level"] == level) & (rows["method"] == "full")]
    for backend, own in dense.groupby("backend"):
        yield str(backend), own.sort_values("median_ms").drop_duplicates("length").sort_values("length")


def split_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Per method and length: selection, attention and both, in percent of the strongest dense time,
    and that one's name and the density.

    Replayed masks change attention alone, so selection on the same random inputs is theirs too. Where
    a method's attention has no row of its own, as over replayed masks that all methods share, the
    kernel's row of the same density stands for it.
    """
    attention = rows[(rows["level"] == "attention") & (rows["method"] != "full")]
    selection = rows[rows["level"] == "selection"]
    lines = []
    for row in methods_at(rows, "both").to_dict("records"):
        own = {name: row[name] for name in ("length", "method", "inputs")}
        chosen = _first(selection, own)
        if chosen is None and row["inputs"] == "replay":
            chosen = _first(selection, own | {"inputs": "random"})
        alike = attention[(attention["density"] - row["density"]).abs() <= 0.05 * row["density"]]
        computed = _first(alike, own)
        if computed is None:
            computed = _first(
                alike, {"length": row["length"], "method": "mask", "backend": row["backend"]}
            )
        if chosen is None or computed is None:
            continue
        times = {"selection": chosen, "attention": computed, "both": row["median_ms"]}
        shares = {name: 100 * ms / (row["median_ms"] * row["speedup"]) for name, ms in times.items()}
        kept = {name: row[name] for name in ("length", "density", "strongest")}
        lines.append({"method": row["series"], **kept, **shares})
    return pd.DataFrame(lines)


def _first(rows: pd.DataFrame, where: dict[str, Any]) -> float | None:
    """Milliseconds of the first row with these values; None without one."""
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return None if rows.empty else float(rows["median_ms"].iloc[0])


def kernel_names(masks: pd.DataFrame) -> pd.Series:
    """What a panel of rates is named after: back ends that the executor chose between are one kernel.

    They are, unless one mask was timed on several of them; kernels of others stand alone always.
    """
    others = masks["backend"].isin(list(RIVALS))
    own = masks[~others]
    names = masks["backend"].replace(RIVALS)
    if own.duplicated(["length", "density"]).any():
        return names
    return names.where(others, " or ".join(sorted(own["backend"].unique())))
