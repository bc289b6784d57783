"""Lines of latency figures: their looks, names and legend."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rr_bench.report.drawing import LEGEND_LINE, legend_columns
from rr_bench.report.latency import density_text
from rr_bench.report.load import natural
from rr_bench.report.style import REFERENCES, legend_labels, method_styles


def method_lines(
    axes: Axes, own: pd.DataFrame, column: str, among: pd.DataFrame | None = None
) -> list[Line2D]:
    """One line per series; colours and labels as for all series of ``among``."""
    every = own if among is None else among
    names = sorted(every["series"].unique(), key=natural)
    styles = method_styles((name.partition(",")[0].partition("(")[0], name) for name in names)
    labels = _with_densities(every, legend_labels(names))
    present = [name for name in names if (own["series"] == name).any()]
    return [
        line_by_length(axes, own[own["series"] == name], column, styles[name], labels[name])
        for name in present
    ]


def _with_densities(rows: pd.DataFrame, labels: dict[str, str]) -> dict[str, str]:
    """Labels, with the densities of each method where these are not the same for all."""
    found = rows.groupby("series")["density"].agg(["min", "max"])
    if (100 * found).round().stack().nunique() < 2:
        return labels
    return {
        name: f"{label}, {density_text(rows[rows['series'] == name]).partition(' ')[2]}"
        for name, label in labels.items()
    }


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


def add_legend(figure: Figure, handles: list[Line2D]) -> None:
    """A legend above the panels, in as many columns as its labels leave room for; the figure grows."""
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)
