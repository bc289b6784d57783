"""Figures of a summary as PNG and PDF. Every point is a row of the table, intervals included."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rr_bench.report.load import natural
from rr_bench.report.style import RC, WIDTH, legend_labels, length_label, method_styles

ONE_COLUMN = 26
"""Longest legend label, in characters, of which two fit side by side."""

Styles = dict[str, dict[str, Any]]

SETUP = ["model", "dtype", "device", "seed", "source"]
"""Columns whose values are never mixed in one figure."""

_PANEL_HEIGHT = 1.6
_LEGEND_LINE = 0.16
_DODGE = 0.014
"""Shift between neighbouring series, as a share of the axis, so that intervals stay apart."""


@dataclass(frozen=True)
class _Plot:
    """One kind of figure: its file stem, the column it shows, its axes and who is in it."""

    stem: str
    column: str
    draw: Callable[[Axes, pd.DataFrame, Styles, str], None]
    x_label: str
    y_label: str
    with_dense: bool
    mark_100: bool = False


def write_figures(frame: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw what the summary allows, one set of figures for every model and setup.

    Args:
        frame: the summary's rows; a row without a value for a figure is not in that figure.
        folder: where the files go; made if needed.

    Returns:
        The files written, a PNG and a PDF each. Without sparse cells: the scores by length alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = frame.assign(series=_series(frame), dense=frame["dense"].astype(bool))
    styles = method_styles(zip(frame["family"], frame["series"], strict=True))
    setups = list(frame.groupby(SETUP, sort=True))
    written: list[Path] = []
    with matplotlib.rc_context(RC):
        for name, rows in setups:
            suffix = _suffix(frame, name) if len(setups) > 1 else ""
            for plot in _PLOTS:
                shown = rows[rows[plot.column].notna() & (plot.with_dense | ~rows["dense"])]
                if not shown.empty:
                    written += _save(_figure(plot, shown, styles), folder / f"{plot.stem}{suffix}")
    return written


def _series(frame: pd.DataFrame) -> pd.Series:
    """Method label; the keep policy joins it only where a method was run under several."""
    several = frame.groupby("method")["keep"].transform("nunique") > 1
    return frame["method"].where(~several, frame["method"] + ", keep " + frame["keep"])


def _suffix(frame: pd.DataFrame, name: tuple[Any, ...]) -> str:
    """The parts of a setup that tell it from the others, fit for a file name."""
    telling = [part for column, part in zip(SETUP, name, strict=True) if frame[column].nunique() > 1]
    return "-" + re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(map(str, telling)))


def _figure(plot: _Plot, rows: pd.DataFrame, styles: Styles) -> Figure:
    """One panel per task, at most two in a row, and one legend below them all."""
    tasks = sorted(rows["task"].unique())
    columns = min(2, len(tasks))
    lines = -(-len(tasks) // columns)
    handles = _legend(plot, rows, styles)
    height = (
        (_PANEL_HEIGHT if columns > 1 else 1.2 * _PANEL_HEIGHT) * lines
        + _LEGEND_LINE * ((len(handles) + 1) // 2)
        + 0.35
    )
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for i, (axes, task) in enumerate(zip(grid, tasks, strict=False)):
        if plot.mark_100:
            axes.axhline(100, color="black", linewidth=0.8)
        plot.draw(axes, rows[rows["task"] == task], styles, plot.column)
        axes.margins(y=0.1)
        axes.set_title(task)
        if i % columns == 0:
            axes.set_ylabel(plot.y_label)
        axes.tick_params(labelbottom=i + columns >= len(tasks))  # nothing drawn below it
    for axes in grid[len(tasks) :]:
        axes.set_axis_off()
    figure.supxlabel(plot.x_label, fontsize=RC["axes.labelsize"])
    widest = max(len(str(handle.get_label())) for handle in handles)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=2 if widest <= ONE_COLUMN else 1,
        columnspacing=1.2,
    )
    return figure


def _legend(plot: _Plot, rows: pd.DataFrame, styles: Styles) -> list[Line2D]:
    handles = (
        [Line2D([], [], color="black", linewidth=0.8, label="dense = 100 %")] if plot.mark_100 else []
    )
    names = sorted(rows["series"].unique(), key=natural)
    shown = legend_labels(list(names))
    return handles + [Line2D([], [], label=shown[name], **styles[name]) for name in names]


def _by_length(axes: Axes, rows: pd.DataFrame, styles: Styles, column: str) -> None:
    """A value over the length on a log2 axis, with the interval where the table has one."""
    names = sorted(rows["series"].unique(), key=natural)
    lengths = sorted(int(length) for length in rows["length"].unique())
    octaves = np.log2(lengths[-1] / lengths[0]) + 0.8
    dodge = _DODGE * octaves if f"{column}_lo" in rows else 0.0
    for i, name in enumerate(names):
        # A length that this series lacks becomes a gap in its line.
        one = rows[rows["series"] == name].set_index("length").reindex(lengths)
        x = np.array(lengths, float) * 2 ** (dodge * (i - (len(names) - 1) / 2))
        _line(axes, x, one, column, styles[name])
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 2**0.4, lengths[-1] * 2**0.4)
    step = 1 if len(lengths) <= 4 else 2
    ticked = lengths[::-1][::step][::-1]
    axes.set_xticks(ticked, [length_label(length) for length in ticked])
    axes.minorticks_off()


def _by_density(axes: Axes, rows: pd.DataFrame, styles: Styles, column: str) -> None:
    """Recovery over density, a method's lengths joined; the marker grows with the length."""
    lengths = sorted(rows["length"].unique())
    for name in sorted(rows["series"].unique(), key=natural):
        one = rows[rows["series"] == name].sort_values("length")
        style = styles[name]
        _line(
            axes, one["density"].to_numpy(float), one, column, style | {"marker": "", "linewidth": 0.7}
        )
        sizes = [4 + 4 * lengths.index(length) for length in one["length"]]
        axes.scatter(
            one["density"],
            one[column],
            s=sizes,
            color=style["color"],
            marker=style["marker"],
            edgecolors=style["markeredgecolor"],
            linewidths=style["markeredgewidth"],
            zorder=3,
        )


def _line(axes: Axes, x: Any, rows: pd.DataFrame, column: str, style: dict[str, Any]) -> None:
    y = rows[column].to_numpy(float)
    if f"{column}_lo" in rows:
        ends = np.abs(rows[[f"{column}_lo", f"{column}_hi"]].to_numpy(float).T - y)
        axes.errorbar(
            x, y, yerr=np.nan_to_num(ends), fmt="none", ecolor=style["color"], elinewidth=0.7, alpha=0.7
        )
    axes.plot(x, y, **style)


def _save(figure: Figure, stem: Path) -> list[Path]:
    """Write both formats without dates, so that equal results give equal files."""
    paths = [stem.with_name(stem.name + ending) for ending in (".png", ".pdf")]
    for path, stamp in zip(paths, ("Software", "CreationDate"), strict=True):
        figure.savefig(path, metadata={stamp: None})
    return paths


_BY_DENSITY = "Density (% of causal blocks); the marker grows with the length"

_PLOTS = (
    _Plot(
        "recovery_by_density", "recovery", _by_density, _BY_DENSITY, "Score recovery (%)", False, True
    ),
    _Plot(
        "recovery_by_length",
        "recovery",
        _by_length,
        "Length (tokens)",
        "Score recovery (%)",
        False,
        True,
    ),
    _Plot("density_by_length", "density", _by_length, "Length (tokens)", "Density (%)", False),
    _Plot("score_by_length", "score", _by_length, "Length (tokens)", "Score (%)", True),
)
