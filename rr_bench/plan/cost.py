"""What a run will cost before it starts: prompts, tokens, and GPU hours where they can be known.

Seconds come from measurements only: samples that a store already holds for the same model, device,
method and length, else the whole prefills of a latency table (``latency.csv`` of the latency
experiment) for the model's shape. Without either the hours are unknown, never guessed; a missing
length is scaled from the nearest measured one and marked.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rr_bench import ROOT
from rr_bench.plan.cells import Cell
from rr_bench.store.cells import StoreError, cell_folders, read_cell
from rr_bench.store.records import RecordError
from rr_bench.tasks.helmet_table import DATASETS

RESULTS = ROOT / "results"
LATENCY = ("latency*/latency.csv", "runs/latency*/latency.csv")
"""Where the tables of the latency experiment lie, in ``results``."""

Times = Mapping[tuple[str, str], Mapping[int, float]]
"""(device, method label or name) to length to seconds of one prompt."""


@dataclass(frozen=True)
class Cost:
    """A run's work.

    Attributes:
        prompts: samples left to score.
        tokens: nominal tokens of them, prompt and answer.
        hours: device hours of the prompts with a known time.
        unknown: prompts without one.
        scaled: prompts whose time was scaled from another length.
    """

    prompts: int
    tokens: int
    hours: float
    unknown: int
    scaled: int


def wanted_rows(cell: Cell, samples: int) -> int:
    """Rows of a cell: what is asked for, or all of HELMET's official sample if that is less."""
    official = cell.settings["data"]["source"] == "helmet" and cell.task.name in DATASETS
    return min(samples, DATASETS[cell.task.name].rows) if official else samples


def estimate(work: Sequence[tuple[Cell, int]], times: Times) -> Cost:
    """Add up cells with samples left.

    Args:
        work: cells and their samples left.
        times: measured seconds.
    """
    prompts = tokens = unknown = scaled = 0
    seconds = 0.0
    for cell, count in work:
        prompts += count
        tokens += count * cell.length
        device = cell.model.device.name
        measured = times.get((device, cell.method.label)) or times.get((device, cell.method.name))
        if not measured:
            unknown += count
            continue
        scaled += 0 if cell.length in measured else count
        seconds += count * seconds_at(cell.length, measured)
    return Cost(prompts, tokens, seconds / 3600, unknown, scaled)


def seconds_at(length: int, measured: Mapping[int, float]) -> float:
    """Seconds of one prompt; of the nearest measured length, scaled with the square of the ratio
    upwards and in proportion downwards, so never too low.
    """
    nearest = min(measured, key=lambda one: abs(one - length))
    ratio = length / nearest
    return measured[nearest] * (ratio**2 if ratio > 1 else ratio)


def stored_times(out: str | Path, model: str) -> dict[tuple[str, str], dict[int, float]]:
    """Median seconds of a sample, prefill and decode, of the cells a store holds for a model."""
    try:
        folders = cell_folders(out)
    except StoreError:
        return {}
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        try:
            cell = read_cell(folder)
        except (RecordError, StoreError, OSError):
            continue  # the report names unreadable cells
        if cell.info.model["name"] != model:
            continue
        key = str(cell.env.get("device", "")), cell.info.method["label"]
        found[key][cell.info.length] += [
            sample.prefill_s + (sample.decode_s or 0.0)
            for sample in cell.samples
            if sample.prefill_s is not None
        ]
    return {
        key: {length: median(values) for length, values in lengths.items() if values}
        for key, lengths in found.items()
    }


def table_times(model: str, results: Path = RESULTS) -> dict[tuple[str, str], dict[int, float]]:
    """Seconds of a prefill from latency tables; those of the fastest back end.

    Sparse prefills are timed there at one density, which is not what every prompt will need.

    Args:
        model: the model's name. Its shape's name has to begin it, punctuation and case aside:
            ``llama31_8b`` stands for ``Llama-3.1-8B-Instruct``.
        results: folder of the tables.
    """
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for path in sorted(path for pattern in LATENCY for path in results.glob(pattern)):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                timed = row["level"] == "prefill" and row["median_ms"]
                if timed and _plain(model).startswith(_plain(row["model"])):
                    times = found[row["device"], row["method"]]
                    length, seconds = int(row["length"]), float(row["median_ms"]) / 1e3
                    times[length] = min(seconds, times.get(length, seconds))
    return dict(found)


def _plain(name: str) -> str:
    """A name's letters and digits, in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def known_times(out: str | Path, model: str) -> Times:
    """Measured seconds; a store's own samples before a table's."""
    return {**table_times(model), **stored_times(out, model)}


def describe(cost: Cost) -> str:
    """The estimate in one line."""
    line = f"estimate: {cost.prompts:,} prompts, {cost.tokens / 1e6:,.1f} M tokens"
    if cost.unknown == cost.prompts:
        return f"{line}; device hours unknown (nothing measured for this model and device yet)"
    line += f", {cost.hours:,.1f} device hours"
    parts: Iterable[str] = [
        f"{cost.unknown:,} prompts of unmeasured methods not counted" if cost.unknown else "",
        f"{cost.scaled:,} scaled from another length" if cost.scaled else "",
    ]
    remarks = "; ".join(part for part in parts if part)
    return f"{line} ({remarks})" if remarks else line
