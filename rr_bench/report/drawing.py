"""What every figure needs: one column of a page, an axis of lengths, intervals, two file formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rr_bench.report.style import RC, WIDTH, length_label
from rr_bench.report.svg import svg_text

ONE_COLUMN = 26
"""Longest legend label, in characters, of which two fit side by side."""

REMARK = 62
"""Characters of a line below a figure."""

LEGEND_LINE = 0.16
"""Inches of a line of the legend."""


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def length_axis(axes: Axes, lengths: Sequence[int], most: int = 4) -> None:
    """A log2 axis of tokens with at most ``most`` evenly spread labels, the longest length labelled.

    Args:
        axes: where it is drawn.
        lengths: the lengths shown, ascending.
        most: labels that fit.
    """
    step = -(-len(lengths) // most)
    ticked = lengths[::-1][::step][::-1]
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 2**0.4, lengths[-1] * 2**0.4)
    axes.set_xticks(ticked, [length_label(length) for length in ticked])
    axes.xaxis.set_tick_params(which="minor", bottom=False)


def interval_line(axes: Axes, x: Any, rows: pd.DataFrame, column: str, style: dict[str, Any]) -> None:
    """A line of a column, with bars where the table has its interval (``<column>_lo`` and ``_hi``).

    Args:
        axes: where it is drawn.
        x: positions, one per row.
        rows: rows of the summary.
        column: what is drawn.
        style: keyword arguments for ``Axes.plot``.
    """
    y = rows[column].to_numpy(float)
    if f"{column}_lo" in rows:
        ends = np.abs(rows[[f"{column}_lo", f"{column}_hi"]].to_numpy(float).T - y)
        axes.errorbar(
            x, y, yerr=np.nan_to_num(ends), fmt="none", ecolor=style["color"], elinewidth=0.7, alpha=0.7
        )
    axes.plot(x, y, **style)


def value_range(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """Ends of a y axis that holds a column with its intervals and, of a recovery, 100 %."""
    names = [name for name in (column, f"{column}_lo", f"{column}_hi") if name in rows]
    values = rows[names].to_numpy(float)
    values = np.append(values[np.isfinite(values)], [100.0] if column == "recovery" else [])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def legend_columns(labels: Sequence[str]) -> int:
    """Legend columns that labels leave room for, two at most."""
    return 2 if max(map(len, labels)) <= ONE_COLUMN else 1


def add_below(figure: Figure, label: str, remark: str = "") -> None:
    """The label of the x axis of all panels, and below it in small what a reader must know."""
    figure.supxlabel(label, fontsize=RC["axes.labelsize"])
    if remark:
        text = fill(remark, REMARK)
        figure.supxlabel(f"{label}\n{text}", fontsize=RC["axes.labelsize"] - 1)


def file_name(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")


def some_lengths(lengths: Sequence[int]) -> list[int]:
    """The shortest, a middle and the longest of ascending lengths, at most three."""
    if len(lengths) <= 3:
        return list(lengths)
    return [lengths[0], lengths[len(lengths) // 2], lengths[-1]]


def part_suffix(number: int) -> str:
    """End of the file name of a figure's further parts, counted from 0."""
    return f"-{number + 1}" if number else ""


class Album:
    """Takes figures as they are drawn: writes PNG and PDF, keeps SVG for a page.

    Args:
        folder: where the files go; made for the first figure.
        pdf: whether figures are written as PDF too.
        svg: whether SVG is kept.

    Attributes:
        paths: the files written so far.
        pictures: the figures' names and SVG.
    """

    def __init__(self, folder: Path, pdf: bool = True, svg: bool = True) -> None:
        self.pdf, self.svg = pdf, svg
        self.folder = folder
        self.paths: list[Path] = []
        self.pictures: dict[str, Markup] = {}

    def add(self, figure: Figure, name: str) -> None:
        """Write a figure without dates, so that equal results give equal files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Laid out once, not for every format.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        stamps = {".png": "Software"} | ({".pdf": "CreationDate"} if self.pdf else {})
        for ending, stamp in stamps.items():
            path = self.folder / (name + ending)
            figure.savefig(path, metadata={stamp: None})
            self.paths.append(path)
        if self.svg:
            self.pictures[name] = svg_text(figure, name)
