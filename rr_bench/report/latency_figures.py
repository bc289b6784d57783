"""Figures of a ``latency.csv``: time, speed-up, the split of a method's time, the kernel's rate.

Each model's shape has its own figures, and nothing but rows that are done is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rr_bench.report.drawing import length_axis, new_figure, save
from rr_bench.report.latency import LEVELS, Latency
from rr_bench.report.load import natural
from rr_bench.report.style import RC, REFERENCES, legend_labels, length_label, method_styles, shades

DENSITY = 0.35
"""Where rows have set densities, figures by length show the one nearest to this."""

INPUTS = ("replay", "probe", "random")
"""Inputs by preference: a figure of methods shows the first of these that its level has."""

TOTALS = ("both", "layer", "prefill")

_KERNEL_HUE = "#0072B2"


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
                "latency_time": _time(rows, below),
                "latency_speedup": _speedup(rows, below),
                "latency_split": _split(rows, f"{model} on {latency.device}"),
                "latency_rate": _rate(rows, below),
            }
            for stem, figure in drawn.items():
                if figure is not None:
                    written += save(figure, folder / f"{stem}-{model}")
    return written


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


def _dense(rows: pd.DataFrame, level: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Back end and rows of every dense attention timed at a level, one row per length."""
    dense = rows[(rows["level"] == level) & (rows["method"] == "full")]
    for backend, own in dense.groupby("backend"):
        yield str(backend), own.sort_values("median_ms").drop_duplicates("length").sort_values("length")


def _time(rows: pd.DataFrame, below: str) -> Figure | None:
    """Milliseconds by length, both axes logarithmic: dense attention, and methods with selection."""
    own = methods_at(rows, "both")
    dense = list(_dense(rows, "both")) or list(_dense(rows, "attention"))
    if own.empty or not dense:
        return None
    figure = new_figure(3.0 + 0.08 * (own["series"].nunique() + len(dense)))
    axes = figure.subplots()
    handles = []
    for backend, line in dense:
        handles.append(_line(axes, line, "median_ms", _reference(backend), backend))
    handles += _method_lines(axes, own, "median_ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    length_axis(axes, _lengths(own, *(line for _, line in dense)), most=6)
    axes.set_ylabel("Time (ms), p20 to p80 shaded")
    axes.set_title(f"Selection + attention, {density_text(own)}")
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _speedup(rows: pd.DataFrame, below: str) -> Figure | None:
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
        for handle in _method_lines(axes, own, "speedup", every):
            handles.setdefault(str(handle.get_label()), handle)
        length_axis(axes, _lengths(own), most=6 // len(shown) + 1)
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


def _split(rows: pd.DataFrame, below: str) -> Figure | None:
    """Selection and attention of every method as shares of dense time, at the two largest lengths.

    The tick is selection + attention timed as one. Where a method's attention has no row of its own,
    as over replayed masks that all methods share, the kernel's row of the same density stands for it.
    """
    parts = _split_parts(rows)
    if parts.empty:
        return None
    lengths = sorted(parts["length"].unique())[-2:]
    parts = parts[parts["length"].isin(lengths)]
    names = sorted(parts["method"].unique(), key=natural, reverse=True)
    labels = legend_labels(names)
    figure = new_figure(1.0 + 0.19 * len(names))
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        own = parts[parts["length"] == length].set_index("method").reindex(names)
        axes.barh(names, own["selection"], color="#E69F00", height=0.7)
        axes.barh(names, own["attention"], left=own["selection"], color="#56B4E9", height=0.7)
        axes.plot(own["both"], range(len(names)), "|", color="black", markersize=9)
        axes.axvline(100, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), [labels[name] for name in names])
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{length_label(int(length))}, {density_text(own)}", fontsize=6.5)
    figure.supxlabel(f"Share of strongest dense attention's time (%)\n{below}", fontsize=7)
    handles: list[Any] = [
        Patch(color="#E69F00", label="selection"),
        Patch(color="#56B4E9", label="attention"),
        Line2D([], [], color="black", marker="|", markersize=9, linestyle="", label="timed as one"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def _split_parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Per method and length: selection, attention and both, in percent of dense, and the density.

    Replayed masks change attention alone, so selection on the same random inputs is theirs too.
    """
    attention = rows[(rows["level"] == "attention") & (rows["method"] != "full")]
    selection = rows[rows["level"] == "selection"]
    lines = []
    for row in methods_at(rows, "both").to_dict("records"):
        own = {name: row[name] for name in ("length", "method", "inputs")}
        chosen = _first(selection, own)
        if chosen is None and row["inputs"] == "replay":
            chosen = _first(selection, own | {"inputs": "random"})
        alike = attention[(attention["density"] - row["density"]).abs() <= 0.05 * row["density"]]
        computed = _first(alike, own)
        if computed is None:
            shared = {"length": row["length"], "method": "mask", "backend": row["backend"]}
            computed = _first(alike, shared)
        if chosen is None or computed is None:
            continue
        dense = row["median_ms"] * row["speedup"]
        times = {"selection": chosen, "attention": computed, "both": row["median_ms"]}
        shares = {name: 100 * ms / dense for name, ms in times.items()}
        lines.append(
            {"method": row["series"], "length": row["length"], "density": row["density"], **shares}
        )
    return pd.DataFrame(lines)


def _first(rows: pd.DataFrame, where: dict[str, Any]) -> float | None:
    """Milliseconds of the first row with these values; None without one."""
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return None if rows.empty else float(rows["median_ms"].iloc[0])


def _rate(rows: pd.DataFrame, below: str) -> Figure | None:
    """TFLOP/s of every kernel on masks of set density, one panel per kernel, with the ceilings."""
    kernel = rows[(rows["level"] == "attention") & (rows["inputs"] == "mask") & rows["tflops"].notna()]
    masks = kernel[kernel["method"] != "full"]
    if masks.empty:
        return None
    backends = sorted(masks["backend"].unique())
    ceilings = [*_dense(kernel, "attention"), *_matmul(rows)]
    densities = sorted(masks["density"].round(2).unique(), reverse=True)
    colors = dict(zip(densities, shades(_KERNEL_HUE, len(densities)), strict=True))
    columns = min(3, len(backends))
    lines = -(-len(backends) // columns)
    figure = new_figure(0.75 + 1.6 * lines + 0.08 * (len(densities) + len(ceilings)))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles = {}
    for axes, backend in zip(grid, backends, strict=False):
        for name, line in ceilings:
            handles[name] = _ceiling(axes, line, name)
        for i, density in enumerate(densities):
            own = masks[(masks["backend"] == backend) & (masks["density"].round(2) == density)]
            style = {"color": colors[density], "marker": "osD^v"[i % 5]}
            label = f"density {100 * density:.0f} %"
            handles[label] = _line(axes, own.sort_values("length"), "tflops", style, label)
        length_axis(axes, _lengths(masks), most=6 // columns + 1)
        axes.set_ylim(bottom=0)
        axes.set_title(backend, fontsize=6.5)
    for axes in grid[len(backends) :]:
        axes.set_axis_off()
    figure.supylabel("Achieved TFLOP/s", fontsize=RC["axes.labelsize"])
    figure.supxlabel(below, fontsize=RC["axes.labelsize"])
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2)
    return figure


def _matmul(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The matrix product's highest rate, as a line without lengths."""
    found = rows[(rows["level"] == "ceiling") & (rows["method"] == "matmul") & rows["tflops"].notna()]
    if len(found):
        yield "matmul", found.nlargest(1, "tflops").assign(length=float("nan"))


def _ceiling(axes: Axes, line: pd.DataFrame, name: str) -> Line2D:
    if line["length"].isna().all():
        style = {**_reference(name), "marker": ""}
        return axes.axhline(line["tflops"].iloc[0], label=name, **style)
    return _line(axes, line, "tflops", _reference(name), name)


def _method_lines(
    axes: Axes, own: pd.DataFrame, column: str, among: pd.DataFrame | None = None
) -> list[Line2D]:
    """One line per series; colours and labels as for all series of ``among``."""
    every = own if among is None else among
    names = sorted(every["series"].unique(), key=natural)
    styles = method_styles((name.partition(",")[0].partition("(")[0], name) for name in names)
    labels = legend_labels(names)
    present = [name for name in names if (own["series"] == name).any()]
    return [
        _line(axes, own[own["series"] == name], column, styles[name], labels[name]) for name in present
    ]


def _line(axes: Axes, rows: pd.DataFrame, column: str, style: dict[str, Any], label: str) -> Line2D:
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


def _reference(name: str) -> dict[str, Any]:
    return REFERENCES.get(name, REFERENCES["other"])


def _lengths(*frames: pd.DataFrame) -> list[int]:
    return sorted({int(length) for frame in frames for length in frame["length"]})
