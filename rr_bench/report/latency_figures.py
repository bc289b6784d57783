"""Figures of a ``latency.csv``: time, speed-up, the split of a method's time, the kernel's rate.

Each model's shape has its own figures, and nothing but rows that are done is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from rr_bench.report.drawing import (
    Album,
    length_axis,
    new_figure,
    part_suffix,
)
from rr_bench.report.latency import (
    LEVELS,
    RIVALS,
    Latency,
    dense_lines,
    dense_name,
    density_text,
    kernel_names,
    methods_at,
    split_shares,
    strongest_text,
)
from rr_bench.report.latency_lines import (
    add_legend,
    lengths_of,
    line_by_length,
    method_lines,
    reference_style,
)
from rr_bench.report.load import natural
from rr_bench.report.series import MOST, parts
from rr_bench.report.style import (
    DENSITIES,
    PARTS,
    RC,
    legend_labels,
    length_label,
    scale,
)

TOTALS = ("both", "layer", "prefill")
"""Levels whose times include selection."""


def draw_latency_figures(latency: Latency, album: Album) -> None:
    """Draw what the rows allow, the model's name at the end of every file name.

    Args:
        latency: rows of one device.
        album: takes the figures.
    """
    done = latency.done
    with matplotlib.rc_context(RC | {"lines.markersize": 3}):
        for model in sorted(set(done["model"]) - {""}):
            rows = done[(done["model"] == model) | (done["level"] == "ceiling")]
            below = f"Length (tokens); {model} on {latency.device}"
            for name, make, most in (
                ("time", time_figure, MOST - rows.loc[rows["method"] == "full", "backend"].nunique()),
                ("speedup", speedup_figure, MOST),
            ):
                for number, part in enumerate(_parts(rows, most)):
                    figure = make(part, below, rows)
                    if figure is not None:
                        album.add(figure, f"latency_{name}-{model}{part_suffix(number)}")
            drawn = {
                "latency_split": split_figure(rows, f"{model} on {latency.device}"),
                "latency_rate": rate_figure(rows, below),
            }
            for stem, figure in drawn.items():
                if figure is not None:
                    album.add(figure, f"{stem}-{model}")


def _parts(rows: pd.DataFrame, most: int) -> Iterator[pd.DataFrame]:
    """The rows for figures of at most so many methods, dense attention and ceilings in each."""
    timed = rows[rows["level"].isin(TOTALS) & (rows["method"] != "full")]
    for names in parts(sorted(timed["method"].unique(), key=natural), most) or [[]]:
        yield rows[rows["method"].isin(names) | ~rows["method"].isin(timed["method"])]


def time_figure(rows: pd.DataFrame, below: str, among: pd.DataFrame | None = None) -> Figure | None:
    """Milliseconds by length, both axes logarithmic: dense attention, and methods with selection.

    Of a figure in parts, ``among`` has the rows of all of them, so that looks, names and ranges agree.
    """
    own = methods_at(rows, "both")
    dense = list(dense_lines(rows, "both")) or list(dense_lines(rows, "attention"))
    if own.empty or not dense:
        return None
    every = own if among is None else methods_at(among, "both")
    figure = new_figure(2.4)
    axes = figure.subplots()
    handles = []
    for backend, line in dense:
        name = f"dense, {dense_name(backend)}"
        handles.append(line_by_length(axes, line, "median_ms", reference_style(backend), name))
    handles += method_lines(axes, own, "median_ms", every)
    axes.set_yscale("log")
    times = pd.concat([every, *(line for _, line in dense)])
    low, high = float(times["p20_ms"].min()), float(times["p80_ms"].max())
    axes.set_ylim(low / 1.3, high * 1.3)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    # Less than a decade may hold no major tick.
    axes.yaxis.set_minor_formatter(plain if high < 10 * low else NullFormatter())
    length_axis(axes, lengths_of(own, *(line for _, line in dense)), most=6)
    axes.set_ylabel("Time (ms), p20 to p80 shaded")
    axes.set_title(f"Selection + attention, {density_text(own)}")
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    add_legend(figure, handles)
    return figure


def speedup_figure(rows: pd.DataFrame, below: str, among: pd.DataFrame | None = None) -> Figure | None:
    """Speed-up over the strongest dense attention by length, one panel per level.

    ``among`` as in :func:`time_figure`.
    """
    by_level = {level: methods_at(rows, level) for level in TOTALS}
    shown = {level: own for level, own in by_level.items() if own["speedup"].notna().any()}
    if not shown:
        return None
    every = pd.concat([methods_at(rows if among is None else among, level) for level in shown])
    figure = new_figure(2.1)
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False).ravel()
    handles: dict[str, Line2D] = {}
    for axes, (level, own) in zip(grid, shown.items(), strict=True):
        axes.axhline(1, color="black", linewidth=0.8)
        for handle in method_lines(axes, own, "speedup", every):
            handles.setdefault(str(handle.get_label()), handle)
        length_axis(axes, lengths_of(own), most=6 // len(shown) + 1)
        axes.set_ylim(0, 1.08 * max(1, *(one["speedup"].max() for one in shown.values())))
        axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axes.set_title(
            f"{LEVELS[level].replace('selection', 'select')}\n{density_text(own)}", fontsize=6.5
        )
    grid[0].set_ylabel("Speed-up over dense")
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    label = f"strongest dense = 1: {strongest_text(every)}"
    line = Line2D([], [], color="black", linewidth=0.8, label=label)
    add_legend(figure, [line, *handles.values()])
    return figure


def split_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """Selection and attention of every method as shares of dense time, at the two largest lengths.

    The tick is selection + attention timed as one.
    """
    parts = split_shares(rows)
    if parts.empty:
        return None
    lengths = sorted(parts["length"].unique())[-2:]
    parts = parts[parts["length"].isin(lengths)]
    names = sorted(parts["method"].unique(), key=natural, reverse=True)
    labels = legend_labels(names)
    figure = new_figure(1.1 + 0.19 * len(names))
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        own = parts[parts["length"] == length].set_index("method").reindex(names)
        axes.barh(names, own["selection"], color=PARTS["selection"], height=0.7)
        axes.barh(names, own["attention"], left=own["selection"], color=PARTS["attention"], height=0.7)
        axes.plot(own["both"], range(len(names)), "|", color="black", markersize=9)
        axes.axvline(100, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), [labels[name] for name in names])
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{length_label(int(length))}\n{density_text(own)}", fontsize=6.5)
    below = f"{below}; strongest: {strongest_text(parts)}"
    figure.supxlabel(f"Share of strongest dense attention's time (%)\n{below}", fontsize=7)
    handles: list[Any] = [
        Patch(color=PARTS["selection"], label="selection"),
        Patch(color=PARTS["attention"], label="attention"),
        Line2D([], [], color="black", marker="|", markersize=9, linestyle="", label="timed as one"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def rate_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """TFLOP/s of every kernel on masks of set density, one panel per kernel, with the ceilings."""
    timed = rows[(rows["level"] == "attention") & (rows["inputs"] == "mask") & rows["tflops"].notna()]
    masks = timed[timed["method"] != "full"]
    masks = masks.assign(density=masks["density"].round(2), kernel=kernel_names(masks))
    if masks.empty:
        return None
    kernels = sorted(masks["kernel"].unique(), key=lambda name: (name in RIVALS.values(), name))
    matmul = rows[(rows["level"] == "ceiling") & (rows["method"] == "matmul")].nlargest(1, "tflops")
    ceilings = dict(dense_lines(timed, "attention")) | ({"matmul": matmul} if len(matmul) else {})
    densities = sorted(masks["density"].unique(), reverse=True)
    colors = scale(DENSITIES, len(densities))
    columns = min(3, len(kernels))
    lines = -(-len(kernels) // columns)
    figure = new_figure(0.75 + 1.6 * lines + 0.08 * (len(densities) + len(ceilings)))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles: dict[str, Line2D] = {}
    for axes, kernel in zip(grid, kernels, strict=False):
        for name, line in ceilings.items():
            handles[name] = _ceiling(axes, line, name)
        for density, color, marker in zip(densities, colors, cycle("osD^v"), strict=False):
            own = masks[(masks["kernel"] == kernel) & (masks["density"] == density)]
            style = {"color": color, "marker": marker}
            label = f"density {100 * density:.0f} %"
            handles[label] = line_by_length(axes, own.sort_values("length"), "tflops", style, label)
        length_axis(axes, lengths_of(masks), most=6 // columns + 1)
        axes.set_ylim(bottom=0)
        axes.set_title(kernel, fontsize=6.5)
    for axes in grid[len(kernels) :]:
        axes.set_axis_off()
    figure.supylabel("Achieved TFLOP/s", fontsize=RC["axes.labelsize"])
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2)
    return figure


def _ceiling(axes: Axes, line: pd.DataFrame, name: str) -> Line2D:
    if name == "matmul":
        style = {**reference_style(name), "marker": ""}
        return axes.axhline(line["tflops"].iloc[0], label=name, **style)
    return line_by_length(axes, line, "tflops", reference_style(name), f"dense, {dense_name(name)}")
