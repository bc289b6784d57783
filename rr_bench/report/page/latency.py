"""The page of a latency run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rr_bench.report.environment import commands, environment_values
from rr_bench.report.latency import LEVELS, Latency
from rr_bench.report.latency_page import DEFINITIONS, latency_records, latency_tables, not_timed
from rr_bench.report.page.content import Page, count, page_table, terms
from rr_bench.report.style import length_label

JUDGED = ("both", "prefill")
"""Levels whose fastest row the page begins with."""


def latency_page(latency: Latency, folder: Path) -> Page:
    """The page of a latency run, without figures."""
    records = latency_records(latency)
    return Page(
        title=f"Latency on {latency.device}",
        subtitle=f"{folder.resolve().name}: {count(len(latency.done), 'timed case')}",
        verdict=list(fastest(latency)) or ["no verdict: no method was timed beside dense attention"],
        tables=[
            page_table(title, table, link="latency.csv") for title, table in latency_tables(latency)
        ],
        notes=not_timed(latency.frame),
        terms=terms(DEFINITIONS),
        environment=list(environment_values(records).items()),
        commands=commands(records),
    )


def fastest(latency: Latency) -> Iterator[str]:
    """Per level and model, the fastest row of the longest length, beside the strongest dense one."""
    done = latency.done
    rows = done[done["level"].isin(JUDGED) & (done["method"] != "full") & done["speedup"].notna()]
    for (level, model), own in rows.groupby(["level", "model"]):
        longest = own[own["length"] == own["length"].max()]
        best = longest.loc[longest["speedup"].idxmax()]
        yield (
            f"{LEVELS[str(level)]}, {model}, {length_label(int(best['length']))}: fastest is "
            f"{best['method']}, {best['speedup']:.2f} times as fast as {best['strongest']} at density "
            f"{100 * best['density']:.0f} %"
        )
