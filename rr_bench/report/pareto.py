"""Recovery against density: what a method's knob buys, one line per method, one figure per task."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rr_bench.report.drawing import (
    LEGEND_LINE,
    Album,
    file_name,
    interval_line,
    legend_columns,
    new_figure,
    part_suffix,
    some_lengths,
    value_range,
)
from rr_bench.report.load import natural
from rr_bench.report.series import density_lines
from rr_bench.report.style import RC, legend_labels, length_label, method_styles

_HEIGHT = 1.9


def draw_pareto(rows: pd.DataFrame, album: Album, suffix: str) -> None:
    """Draw ``recovery_by_density-<task>`` of every task, with the intervals of the table.

    Args:
        rows: sparse rows of one model and setup, with their ``series`` and ``line``.
        album: takes the figures.
        suffix: end of their names.
    """
    rows = rows[rows["recovery"].notna()]
    for task in sorted(rows["task"].unique()):
        one = rows[rows["task"] == task]
        found = dict(zip(one["series"], one["line"], strict=True))
        ends = value_range(one, "recovery")
        lines = {series: found[series] for series in sorted(found, key=natural)}
        for number, names in enumerate(density_lines(lines)):
            name = f"recovery_by_density-{file_name(str(task))}{part_suffix(number)}{suffix}"
            album.add(_figure(one[one["series"].isin(names)], str(task), ends), name)


def _figure(rows: pd.DataFrame, task: str, ends: tuple[float, float]) -> Figure:
    """One panel per length; a line joins a method's settings in the order of their density.

    ``ends`` are those of the y axis, which all figures of a task share.
    """
    lengths = some_lengths(sorted(int(length) for length in rows["length"].unique()))
    names = sorted(rows["line"].unique(), key=natural)
    styles = method_styles(zip(rows["family"].astype(str), rows["line"].astype(str), strict=True))
    labels = legend_labels(names)
    dense = Line2D([], [], color="black", linewidth=0.8, label="dense = 100 %")
    handles = [dense, *(Line2D([], [], label=labels[name], **styles[name]) for name in names)]
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    figure = new_figure(_HEIGHT + LEGEND_LINE * -(-len(handles) // columns))
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        axes.axhline(100, color="black", linewidth=0.8)
        for name in names:
            one = rows[(rows["line"] == name) & (rows["length"] == length)].sort_values("density")
            style = styles[name] | {"markersize": 3.2}
            interval_line(axes, one["density"].to_numpy(float), one, "recovery", style)
        axes.set_xlim(-5, 107)
        axes.set_xticks([0, 50, 100])
        axes.set_ylim(*ends)
        axes.set_title(length_label(length))
    grid[0].set_ylabel("Score recovery (%)")
    figure.supxlabel(f"Density (% of causal blocks); {task}", fontsize=RC["axes.labelsize"])
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)
    return figure
