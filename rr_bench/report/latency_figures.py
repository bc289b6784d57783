"""Figures of a ``latency.csv``: time, speed-up, the split of a method's time, the kernel's rate.

Each model's shape has its own figures, and nothing but rows that are done is drawn.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

from rr_bench.report.drawing import length_axis, new_figure, save
from rr_bench.report.latency import LEVELS, Latency
from rr_bench.report.latency_lines import (
    dense_lines,
    density_text,
    lengths_of,
    line_by_length,
    method_lines,
    methods_at,
    reference_style,
)
from rr_bench.report.latency_parts import rate_figure, split_figure
from rr_bench.report.style import RC

TOTALS = ("both", "layer", "prefill")
"""Levels whose times include selection."""


def write_latency_figures(latency: Latency, folder: Path) -> list[Path]:
    """Draw what the rows allow, the model's name at the end of every file name.

    Args:
        latency: rows of one device.
        folder: where the files go; made if needed.

    Returns:
        The files written, a PNG and a PDF each.
    """
    done = latency.done
    written: list[Path] = []
    with matplotlib.rc_context(RC | {"lines.markersize": 3}):
        for model in sorted(set(done["model"]) - {""}):
            rows = done[(done["model"] == model) | (done["level"] == "ceiling")]
            below = f"Length (tokens); {model} on {latency.device}"
            drawn = {
                "latency_time": time_figure(rows, below),
                "latency_speedup": speedup_figure(rows, below),
                "latency_split": split_figure(rows, f"{model} on {latency.device}"),
                "latency_rate": rate_figure(rows, below),
            }
            for stem, figure in drawn.items():
                if figure is not None:
                    written += save(figure, folder / f"{stem}-{model}")
    return written


def time_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """Milliseconds by length, both axes logarithmic: dense attention, and methods with selection."""
    own = methods_at(rows, "both")
    dense = list(dense_lines(rows, "both")) or list(dense_lines(rows, "attention"))
    if own.empty or not dense:
        return None
    figure = new_figure(3.0 + 0.08 * (own["series"].nunique() + len(dense)))
    axes = figure.subplots()
    handles = []
    for backend, line in dense:
        handles.append(line_by_length(axes, line, "median_ms", reference_style(backend), backend))
    handles += method_lines(axes, own, "median_ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    length_axis(axes, lengths_of(own, *(line for _, line in dense)), most=6)
    axes.set_ylabel("Time (ms), p20 to p80 shaded")
    axes.set_title(f"Selection + attention, {density_text(own)}")
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def speedup_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """Speed-up over the strongest dense attention by length, one panel per level."""
    by_level = {level: methods_at(rows, level) for level in TOTALS}
    shown = {level: own for level, own in by_level.items() if own["speedup"].notna().any()}
    if not shown:
        return None
    every = pd.concat(shown.values())
    figure = new_figure(2.4 + 0.08 * every["series"].nunique())
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    handles: dict[str, Line2D] = {}
    for axes, (level, own) in zip(grid, shown.items(), strict=True):
        axes.axhline(1, color="black", linewidth=0.8)
        for handle in method_lines(axes, own, "speedup", every):
            handles.setdefault(str(handle.get_label()), handle)
        length_axis(axes, lengths_of(own), most=6 // len(shown) + 1)
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.set_title(
            f"{LEVELS[level].replace('selection', 'select')}\n{density_text(own)}", fontsize=6.5
        )
    grid[0].set_ylabel("Speed-up over strongest dense")
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    line = Line2D([], [], color="black", linewidth=0.8, label="strongest dense = 1")
    figure.legend(handles=[line, *handles.values()], loc="outside upper center", ncols=2)
    return figure
