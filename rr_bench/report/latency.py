"""The latency experiment's part of a report: ``latency.csv`` read, checked, and told in full.

A row is one case: a level (what was timed), a model's shape, inputs, a method on a back end, a length
and a density. A row that is not done has no numbers, whatever its fields hold, so that nothing that
failed can look fast. Rows of two devices or two drivers are refused together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench.report.environment import sessions

LEVELS = {
    "prefill": "whole prefill",
    "layer": "one decoder layer",
    "both": "selection + attention",
    "selection": "selection alone",
    "attention": "attention alone",
    "ceiling": "ceilings",
}
"""Levels in the order of the page, with their titles."""

STATUSES = ("done", "failed", "missing")

TEXT = ("level", "model", "inputs", "method", "backend", "status", "reason")
MEASURES = (
    "median_ms",
    "p20_ms",
    "p80_ms",
    "n",
    "tflops",
    "peak_extra_mib",
    "vs_dense_cudnn",
    "vs_dense_fa2",
    "error",
)
CASE = ["level", "model", "inputs", "method", "backend", "length", "density"]
COLUMNS = (*TEXT, "length", "density", *MEASURES)
"""Columns that ``latency.csv`` must have, in any order; ``device`` and ``gb_s`` may be there too."""


class LatencyError(RuntimeError):
    """A ``latency.csv`` that cannot be used; the message says what is wrong and in which line."""


@dataclass(frozen=True)
class Latency:
    """The rows of one device.

    Attributes:
        frame: :data:`COLUMNS`, ``gb_s``, ``speedup``, which is over the strongest
            dense back end of the row's level, model and length, and ``of_dense``, its time over cuDNN's
            dense attention. Measures of rows that are not done are NaN.
        device: name of the device.
        env: the environment record beside it; empty without one.
    """

    frame: pd.DataFrame
    device: str
    env: dict[str, Any]

    @property
    def done(self) -> pd.DataFrame:
        """The rows that were measured."""
        return self.frame[self.frame["status"] == "done"]


def read_latency(folder: Path) -> Latency:
    """Read ``latency.csv``, and ``env.json`` if it is there.

    Raises:
        LatencyError: a file is unreadable, a column is absent, a field is no number, a row is done
            without a time, a case stands there twice, or rows are of different devices or drivers.
    """
    path = folder / "latency.csv"
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys((*TEXT, "device"), str))
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise LatencyError(f"{path}: {error}") from error
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise LatencyError(f"{path}: column {', '.join(absent)} is absent")
    frame = frame.assign(**{name: frame[name].fillna("") for name in TEXT})
    frame["gb_s"] = frame.get("gb_s", float("nan"))
    for name in ("length", "density", "gb_s", *MEASURES):
        try:
            frame[name] = pd.to_numeric(frame[name]).astype(float)
        except ValueError as error:
            raise LatencyError(f"{path}: column {name}: {error}") from error
    env = _environment(folder / "env.json")
    _check_rows(frame, path)
    device = _one_device(frame, env, path)
    frame.loc[frame["status"] != "done", [*MEASURES, "gb_s"]] = float("nan")
    return Latency(frame.assign(**_against_dense(frame)), device, env)


def _against_dense(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Columns ``speedup`` and ``of_dense``, with dense back ends that have no column of their own."""
    dense = frame[(frame["method"] == "full") & frame["median_ms"].notna()]
    group = ["level", "model", "length"]
    best = dense.groupby(group)["median_ms"].min().reindex(pd.MultiIndex.from_frame(frame[group]))
    named = frame[["vs_dense_cudnn", "vs_dense_fa2"]].min(axis=1)
    alone = dense[dense["level"].isin(["both", "attention"]) & (dense["backend"] == "dense:cudnn")]
    cudnn = alone.groupby(group[1:])["median_ms"].min()
    cudnn = cudnn.reindex(pd.MultiIndex.from_frame(frame[group[1:]]))
    return {
        "speedup": pd.concat([named, best.set_axis(frame.index) / frame["median_ms"]], axis=1).min(
            axis=1
        ),
        "of_dense": frame["median_ms"] / cudnn.set_axis(frame.index),
    }


def _environment(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        env = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LatencyError(f"{path}: not JSON ({error})") from error
    return dict(env)


def _check_rows(frame: pd.DataFrame, path: Path) -> None:
    """Refuse rows that contradict themselves or each other."""
    timed = (frame["status"] == "done") & (frame["level"] != "ceiling")
    # Where the executor ran dense for a method, masks of several densities became the same case.
    told_apart = timed & ~(frame["backend"].str.startswith("dense:") & (frame["method"] != "full"))
    wrong = {
        "status is none of " + ", ".join(STATUSES): ~frame["status"].isin(STATUSES),
        "done without a positive median_ms": timed & ~(frame["median_ms"] > 0),
        "done without a length": timed & frame["length"].isna(),
        "p20_ms, median_ms and p80_ms are not in order": timed
        & ((frame["p20_ms"] > frame["median_ms"]) | (frame["median_ms"] > frame["p80_ms"])),
        "the case of an earlier line": told_apart & frame.duplicated(CASE),
    }
    for what, rows in wrong.items():
        if rows.any():
            raise LatencyError(f"{path}: line {int(frame.index[rows][0]) + 2}: {what}")


def _one_device(frame: pd.DataFrame, env: Mapping[str, Any], path: Path) -> str:
    """The device of all rows: theirs if they name it, else the environment's."""
    every = list(sessions(env)) if env else []
    drivers = dict.fromkeys(str(one["driver"]) for one in every if "driver" in one)
    devices = dict.fromkeys(str(one["device"]) for one in every if "device" in one)
    if "device" in frame and frame["device"].notna().any():
        devices = dict.fromkeys(frame["device"].dropna())
    for kind, found in (("devices", devices), ("drivers", drivers)):
        if len(found) > 1:
            raise LatencyError(
                f"{path}: rows of {len(found)} {kind} ({'; '.join(found)}) are never put into one "
                "table or figure; measure each one into a folder of its own"
            )
    return next(iter(devices), "unknown device")
