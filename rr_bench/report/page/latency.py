"""The page of a latency run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from rr_bench.report.environment import commands, environment_values
from rr_bench.report.latency import LEVELS, Latency, density_text, methods_at
from rr_bench.report.latency_page import DEFINITIONS, latency_records, latency_tables, not_timed
from rr_bench.report.latency_tables import speed_tables
from rr_bench.report.page.content import Page, count, own_table, page_table, terms
from rr_bench.report.style import length_label

JUDGED = ("both", "prefill")
"""Levels that the page begins with."""

CLOSE = 0.1
"""Densities farther apart are not compared."""


def latency_page(latency: Latency, folder: Path) -> Page:
    """The page of a latency run, without figures."""
    records = latency_records(latency)
    return Page(
        title=f"Latency on {latency.device}",
        subtitle=f"{folder.resolve().name}: {count(len(latency.done), 'timed case')}",
        verdict=list(speedups(latency)) or ["no verdict: no method was timed beside dense attention"],
        tables=[
            *(own_table(table) for table in speed_tables(latency)),
            *(page_table(title, table, link="latency.csv") for title, table in latency_tables(latency)),
        ],
        notes=not_timed(latency.frame),
        terms=terms(DEFINITIONS),
        environment=list(environment_values(records).items()),
        commands=commands(records),
    )


def speedups(latency: Latency) -> Iterator[str]:
    """Per level and model, how fast the methods that figures compare are at the longest length; nothing
    where their densities differ, since a speed-up holds for its density.
    """
    done = latency.done
    for level, model in product(JUDGED, sorted(set(done["model"]) - {""})):
        rows = methods_at(done[done["model"] == model], level)
        rows = rows[rows["speedup"].notna()]
        rows = rows[rows["length"] == rows["length"].max()].sort_values("speedup")
        if rows.empty or rows["density"].max() - rows["density"].min() > CLOSE:
            continue
        low, high = (f"{value:.2f}" for value in rows["speedup"].iloc[[0, -1]])
        names = list(rows["series"])
        many = f"{low} to {high}" if len(rows) > 1 else high
        who = f"{len(names)} methods, {names[-1]} first" if len(rows) > 1 else names[-1]
        yield (
            f"{LEVELS[level]}, {model}, {length_label(int(rows['length'].iloc[0]))}: {many} times as "
            f"fast as {rows['strongest'].iloc[0]} at {density_text(rows)} ({who})"
        )
