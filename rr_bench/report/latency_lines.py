"""Which rows of a ``latency.csv`` become lines, and how a line by length is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rr_bench.report.load import natural
from rr_bench.report.style import REFERENCES, legend_labels, method_styles

DENSITY = 0.35
"""Where rows have set densities, figures by length show the one nearest to this."""

INPUTS = ("replay", "probe", "random")
"""Inputs by preference: a figure of methods shows the first of these that its level has."""


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


def method_lines(
    axes: Axes, own: pd.DataFrame, column: str, among: pd.DataFrame | None = None
) -> list[Line2D]:
    """One line per series; colours and labels as for all series of ``among``."""
    every = own if among is None else among
    names = sorted(every["series"].unique(), key=natural)
    styles = method_styles((name.partition(",")[0].partition("(")[0], name) for name in names)
    labels = legend_labels(names)
    present = [name for name in names if (own["series"] == name).any()]
    return [
        line_by_length(axes, own[own["series"] == name], column, styles[name], labels[name])
        for name in present
    ]


def line_by_length(
    axes: Axes, rows: pd.DataFrame, column: str, style: dict[str, Any], label: str
) -> Line2D:
    """A line by length; of times also the band from p20 to p80."""
    (line,) = axes.plot(rows["length"], rows[column], label=label, **style)
    if column == "median_ms":
        axes.fill_between(
            rows["length"],
            rows["p20_ms"],
            rows["p80_ms"],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    return line


def reference_style(name: str) -> dict[str, Any]:
    """Look of a dense back end or another thing that methods are measured against."""
    return REFERENCES.get(name, REFERENCES["other"])


def lengths_of(*frames: pd.DataFrame) -> list[int]:
    """All lengths of these rows, ascending."""
    return sorted({int(length) for frame in frames for length in frame["length"]})
