"""Committed tables and the names in them, for what README and the pages of results/ say."""

from __future__ import annotations

from functools import cache

import pandas as pd

from rr_bench.report.latency import read_latency
from tests.source import ROOT

README = "README.md"
QWEN = "results/qwen25_coder_15b"
SMALL = "results/qwen25_coder_05b"
VIDEO = "results/video_probe"
H100 = "results/latency_h100"
K = 1024
LENGTHS = (4 * K, 8 * K, 16 * K, 32 * K)
LINES = {
    "rr, released": "rr",
    "rr, forced_first": "rr(selector=forced_first)",
    "rr, top_p": "rr(selector=top_p)",
    "minference, native": "minference_native(patterns=qwen25_coder_15b)",
    "flexprefill": "flexprefill_no_minimum",
    "oracle, mass": "oracle",
    "oracle, maximum": "oracle_max",
}
"""Names of a page's rows that are not those of the store ..."""
VIDEO_LINES = LINES | {
    "flexprefill": "flexprefill",
    "minference, native": "minference_native(vertical_size=30, slash_size=200)",
    "minference, projected": "minference(vertical_size=30, slash_size=200)",
    "minference, native, 30 columns and 200 diagonals": (
        "minference_native(vertical_size=30, slash_size=200, ratio=1.0)"
    ),
}


@cache
def table(path: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / path)


def cell(store: str, name: str, length: int, task: str = "") -> pd.Series:
    """A row of a store's summary, by the method's series or by what it was calibrated to."""
    frame = table(f"{store}/summary.csv")
    frame = frame[(frame["length"] == length) & (frame["task"] == (task or frame["task"].iloc[0]))]
    (found,) = [row for _, row in frame.iterrows() if name in (row["series"], row["point"])]
    return found


def shown(row: pd.Series, density: bool = True) -> str:
    """Recovery, interval and density as the pages' tables print them."""
    value, low, high = (f"{row[name]:.0f}" for name in ("recovery", "recovery_lo", "recovery_hi"))
    ends = "" if value == low == high and "video" in row["task"] else f" ({low}–{high})"
    return f"{value}{ends}" + (f" @ {row['density']:.0f}" if density else "")


def at(level: int, line: str, length: int, store: str = f"{QWEN}/equal_density") -> pd.Series:
    return cell(store, f"{line} @ {level} %", length)


@cache
def latency(store: str) -> pd.DataFrame:
    rows = read_latency(ROOT / store).done
    return rows[rows["model"] == "llama31_8b"]


def timed(
    level: str, method: str, length: int = 128 * K, store: str = H100, **where: object
) -> pd.Series:
    """The one row of a level whose method begins so."""
    rows = latency(store)
    rows = rows[(rows["level"] == level) & (rows["length"] == length)]
    rows = rows[rows["method"].str.startswith(method)]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    (found,) = [row for _, row in rows.iterrows()]
    return found


RR = "rr(tau=0.95"
REPLAY = {"inputs": "replay", "density": 0.35}


def selection(method: str) -> str:
    return f"{100 * timed('selection', method)['of_dense']:.1f}"


def row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


@cache
def page(name: str) -> str:
    """A page's text on one line."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def helmet_cell(one: pd.Series, of: str = ", {datasets}, {n}") -> str:
    """Recovery, interval and density of a row, and what ``of`` says of it."""
    ends = f"{one['recovery']:.0f} ({one['recovery_lo']:.0f}–{one['recovery_hi']:.0f})"
    return f"{ends} @ {one['density']:.0f}" + of.format(**one)


def dense_scores(store: str, *columns: str) -> list[str]:
    """Dense attention's score in columns, at the first length of a store."""
    frame = table(f"{store}/categories.csv")
    frame = frame[frame["method"] == "full"].drop_duplicates("column").set_index("column")
    return [f"{float(frame.loc[name, 'value']):.1f}" for name in columns]
