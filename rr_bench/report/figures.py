"""Figures of a summary as PNG and PDF. Every point is a row of the table, intervals included."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rr_bench.report.ablation import draw_ablations
from rr_bench.report.drawing import (
    LEGEND_LINE,
    Album,
    add_below,
    file_name,
    interval_line,
    legend_columns,
    length_axis,
    new_figure,
    part_suffix,
    value_range,
)
from rr_bench.report.load import natural
from rr_bench.report.pareto import draw_pareto
from rr_bench.report.series import MOST, density_of, main_lines, spread
from rr_bench.report.style import (
    RC,
    legend_labels,
    length_label,
    method_styles,
    shared_rest,
)

Styles = dict[str, dict[str, Any]]

_PANEL_HEIGHT = 1.25
_WIDE_HEIGHT = 2.0
_DODGE = 0.08
"""Octaves between neighbouring series, so that intervals stay apart ..."""
_SPREAD = 0.35
"""... and between the outermost ones at most."""
_NAMED = 3
"""Methods whose gaps a figure names."""


@dataclass(frozen=True)
class _Plot:
    """One figure by length: its file stem, the column it shows, the axis, and who is in it."""

    stem: str
    column: str
    label: str
    with_dense: bool = False
    mark_100: bool = False


_RECOVERY = _Plot("recovery_by_length", "recovery", "Score recovery (%)", mark_100=True)
_OTHERS = (
    _Plot("density_by_length", "density", "Density (%)"),
    _Plot("score_by_length", "score", "Score (%)", with_dense=True),
)


def draw_figures(frame: pd.DataFrame, album: Album) -> None:
    """Draw what the summary allows, one set of figures for every model and setup.

    Args:
        frame: the summary's rows; a row without a value for a figure is not in that figure. Without
            sparse cells: the scores by length alone.
        album: takes the figures.
    """
    frame = frame.assign(dense=frame["dense"].astype(bool))
    setups = list(frame.groupby("setup", sort=True))
    with matplotlib.rc_context(RC):
        for name, rows in setups:
            suffix = f"-{file_name(str(name))}" if len(setups) > 1 else ""
            for plot, part, names in _planned(rows):
                shown = rows[rows["point"].isin(names) | (plot.with_dense & rows["dense"])]
                shown = shown[shown[plot.column].notna()]
                asked = shown.loc[~shown["dense"], "task"]
                # Of a task that no method of this part was run on the dense line says nothing here.
                shown = shown[shown["task"].isin(asked)] if len(asked) else shown
                if not shown.empty:
                    figure = by_length(plot, shown, _gaps(rows, names), rows)
                    album.add(figure, f"{plot.stem}{part}{suffix}")
            draw_pareto(rows[~rows["dense"]], album, suffix)
            draw_ablations(rows[~rows["dense"]], album, suffix)


def _planned(rows: pd.DataFrame) -> Iterator[tuple[_Plot, str, list[str]]]:
    """Figures by length of one setup: what is drawn, the end of the name, the sparse methods in it.

    Methods calibrated to a density have a figure per density, of recovery alone. Recoveries at one
    length alone are in the figures by density: there is nothing to draw over lengths.
    """
    measured = rows[~rows["dense"] & (rows["status"] != "missing")]
    if measured["length"].nunique() == 1 and measured["recovery"].notna().any():
        return
    found = {str(point): set(own["length"]) for point, own in measured.groupby("point")}
    lines = dict(zip(measured["point"].astype(str), measured["line"].astype(str), strict=True))
    shown = spread({point: lines[point] for point in sorted(found, key=natural)})
    lengths = {point: found[point] for point in shown}
    levels: dict[str, dict[str, set[int]]] = {}
    for point, at in lengths.items():
        levels.setdefault(density_of(point), {})[point] = at
    for plot in (_RECOVERY, *_OTHERS):
        for level, own in (levels or {"": {}}).items():
            if level and plot is not _RECOVERY:
                continue
            end = f"-at_{level}" if level else ""
            for i, names in enumerate(main_lines(own) or [[]]):
                yield plot, end + part_suffix(i), names


def _gaps(rows: pd.DataFrame, names: Collection[str]) -> str:
    """What the methods of a figure were not measured at though others were, in a line; or nothing."""
    own = rows[rows["point"].isin(names) & (rows["status"] != "missing") & (rows["n"] > 0)]
    every = own[["task", "length"]].drop_duplicates()
    lacking = {}
    for name, found in own.groupby("point"):
        # A task that a method was not run on has a panel without it.
        asked = every[every["task"].isin(found["task"])]
        places = asked.merge(found[["task", "length"]], how="left", indicator=True)
        absent = places[places["_merge"] == "left_only"]
        if len(absent):
            lengths = sorted({int(length) for length in absent["length"]})
            lacking[str(name)] = " ".join(map(length_label, lengths))
    labels = legend_labels(sorted(map(str, names), key=natural))
    text = [f"{labels[name]} at {lengths}" for name, lengths in list(lacking.items())[:_NAMED]]
    more = len(lacking) - len(text)
    said = [f"not measured: {'; '.join(text)}{f'; and {more} more' if more else ''}"] if text else []
    return "; ".join([*said, *_left_out(rows, names)])


def _left_out(rows: pd.DataFrame, names: Collection[str]) -> list[str]:
    """Lines of which a figure shows only some settings, in a line if there are any."""
    every = rows[~rows["dense"] & (rows["status"] != "missing")].groupby("line")["point"].nunique()
    many = every[(every > MOST) & every.index.isin(rows.loc[rows["point"].isin(names), "line"])]
    told = [f"{MOST} of {count} settings of {line}" for line, count in many.items()]
    return [f"shown: {'; '.join(told[:_NAMED])}"] if told else []


def by_length(
    plot: _Plot, rows: pd.DataFrame, gaps: str = "", among: pd.DataFrame | None = None
) -> Figure:
    """One panel per task, two in a row, below one legend.

    The task of most methods comes last: of an odd number it has a row for itself.

    Args:
        plot: what is drawn.
        rows: rows with a value.
        gaps: what is missing, in words.
        among: rows of all parts of the figure, whose ranges are equal.
    """
    tasks = sorted(rows["task"].unique(), key=lambda task: (_methods(rows, task), task))
    grid = [tasks[i : i + 2] for i in range(0, len(tasks), 2)]
    heights = [_PANEL_HEIGHT if len(row) > 1 else _WIDE_HEIGHT for row in grid]
    names = _dense_first(rows)
    styles = method_styles(zip(rows["family"].astype(str), rows["point"].astype(str), strict=True))
    handles = _legend(plot, names, styles)
    columns = legend_columns([str(handle.get_label()) for handle in handles])
    lines = -(-len(handles) // columns) + bool(shared_rest(names))
    figure = new_figure(sum(heights) + LEGEND_LINE * lines + 0.35)
    panels = figure.subplot_mosaic([row * (2 // len(row)) for row in grid], height_ratios=heights)
    filled = [[(panels[task], task) for task in row] for row in grid]
    _draw(plot, filled, rows, styles)
    _share_y(plot, filled, rows if among is None else among)
    add_below(figure, "Length (tokens)", gaps)
    title = shared_rest(names) or None
    options: dict[str, Any] = {"ncols": columns, "columnspacing": 1.2, "title": title}
    figure.legend(handles=handles, loc="outside upper center", **options)
    return figure


def _draw(
    plot: _Plot, grid: Sequence[Sequence[tuple[Axes, str]]], rows: pd.DataFrame, styles: Styles
) -> None:
    """Fill the panels, given row by row with their tasks."""
    lengths = sorted(int(length) for length in rows["length"].unique())
    for i, line in enumerate(grid):
        # Of a wide panel the ticks are not those of the panels above it.
        labelled = i + 1 == len(grid) or len(grid[i + 1]) < len(line)
        for axes, task in line:
            if plot.mark_100:
                axes.axhline(100, color="black", linewidth=0.8)
            _lines(axes, rows[rows["task"] == task], styles, plot.column)
            length_axis(axes, lengths, most=8 if len(line) == 1 else 3)
            axes.set_title(task)
            axes.tick_params(labelbottom=labelled)
        line[0][0].set_ylabel(plot.label)


def _share_y(plot: _Plot, grid: Sequence[Sequence[tuple[Axes, str]]], rows: pd.DataFrame) -> None:
    """One range for the narrow panels; a wide one has its own, which fits its methods."""
    rows = rows if plot.with_dense else rows[~rows["dense"]]
    narrow = [task for line in grid for _, task in line if len(line) > 1]
    for line in grid:
        for axes, task in line:
            tasks = narrow if len(line) > 1 else [task]
            axes.set_ylim(*value_range(rows[rows["task"].isin(tasks)], plot.column))
            axes.tick_params(labelleft=axes is line[0][0])


def _dense_first(rows: pd.DataFrame) -> list[str]:
    """Labels in the order of the legend."""
    dense = set(rows.loc[rows["dense"], "point"])
    return sorted(rows["point"].unique(), key=lambda name: (name not in dense, natural(name)))


def _methods(rows: pd.DataFrame, task: str) -> int:
    return int(rows.loc[rows["task"] == task, "point"].nunique())


def _legend(plot: _Plot, names: Sequence[str], styles: Styles) -> list[Line2D]:
    handles = (
        [Line2D([], [], color="black", linewidth=0.8, label="dense = 100 %")] if plot.mark_100 else []
    )
    shown = legend_labels(list(names))
    return handles + [Line2D([], [], label=shown[name], **styles[name]) for name in names]


def _lines(axes: Axes, rows: pd.DataFrame, styles: Styles, column: str) -> None:
    """A value over the length, with the interval where the table has one."""
    lengths = sorted(int(length) for length in rows["length"].unique())
    names = sorted(rows["point"].unique(), key=natural)
    dodge = min(_DODGE, _SPREAD / len(names)) if f"{column}_lo" in rows else 0.0
    for i, name in enumerate(names):
        # A length that this series lacks becomes a gap in its line.
        one = rows[rows["point"] == name].set_index("length").reindex(lengths)
        x = np.array(lengths, float) * 2 ** (dodge * (i - (len(names) - 1) / 2))
        interval_line(axes, x, one, column, styles[name])
