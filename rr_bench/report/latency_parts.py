"""Figures of where the time goes: a method's selection and attention, and the kernel's rate."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rr_bench.report.drawing import length_axis, new_figure
from rr_bench.report.latency_lines import (
    dense_lines,
    density_text,
    lengths_of,
    line_by_length,
    methods_at,
    reference_style,
)
from rr_bench.report.load import natural
from rr_bench.report.style import RC, legend_labels, length_label, shades

_SELECTION_HUE, _ATTENTION_HUE, _KERNEL_HUE = "#E69F00", "#56B4E9", "#0072B2"


def split_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """Selection and attention of every method as shares of dense time, at the two largest lengths.

    The tick is selection + attention timed as one. Where a method's attention has no row of its own,
    as over replayed masks that all methods share, the kernel's row of the same density stands for it.
    """
    parts = split_shares(rows)
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
        axes.barh(names, own["selection"], color=_SELECTION_HUE, height=0.7)
        axes.barh(names, own["attention"], left=own["selection"], color=_ATTENTION_HUE, height=0.7)
        axes.plot(own["both"], range(len(names)), "|", color="black", markersize=9)
        axes.axvline(100, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), [labels[name] for name in names])
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{length_label(int(length))}, {density_text(own)}", fontsize=6.5)
    figure.supxlabel(f"Share of strongest dense attention's time (%)\n{below}", fontsize=7)
    handles: list[Any] = [
        Patch(color=_SELECTION_HUE, label="selection"),
        Patch(color=_ATTENTION_HUE, label="attention"),
        Line2D([], [], color="black", marker="|", markersize=9, linestyle="", label="timed as one"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def split_shares(rows: pd.DataFrame) -> pd.DataFrame:
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


def rate_figure(rows: pd.DataFrame, below: str) -> Figure | None:
    """TFLOP/s of every kernel on masks of set density, one panel per kernel, with the ceilings."""
    timed = rows[(rows["level"] == "attention") & (rows["inputs"] == "mask") & rows["tflops"].notna()]
    masks = timed[timed["method"] != "full"]
    masks = masks.assign(density=masks["density"].round(2), kernel=kernel_names(masks))
    if masks.empty:
        return None
    kernels = sorted(masks["kernel"].unique(), key=lambda name: (name == "flex_attention", name))
    ceilings = [*dense_lines(timed, "attention"), *_matmul(rows)]
    densities = sorted(masks["density"].unique(), reverse=True)
    colors = shades(_KERNEL_HUE, len(densities))
    columns = min(3, len(kernels))
    lines = -(-len(kernels) // columns)
    figure = new_figure(0.75 + 1.6 * lines + 0.08 * (len(densities) + len(ceilings)))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    handles = {}
    for axes, kernel in zip(grid, kernels, strict=False):
        for name, line in ceilings:
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


def kernel_names(masks: pd.DataFrame) -> pd.Series:
    """What a panel of rates is named after: back ends that the executor chose between are one kernel.

    They are, unless one mask was timed on several of them; ``flex_attention`` stands alone always.
    """
    own = masks[masks["backend"] != "flex_attention"]
    if own.duplicated(["length", "density"]).any():
        return masks["backend"]
    together = " or ".join(sorted(own["backend"].unique()))
    return masks["backend"].where(masks["backend"] == "flex_attention", together)


def _matmul(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The matrix product's highest rate, as a line without lengths."""
    found = rows[(rows["level"] == "ceiling") & (rows["method"] == "matmul") & rows["tflops"].notna()]
    if len(found):
        yield "matmul", found.nlargest(1, "tflops").assign(length=float("nan"))


def _ceiling(axes: Axes, line: pd.DataFrame, name: str) -> Line2D:
    if line["length"].isna().all():
        style = {**reference_style(name), "marker": ""}
        return axes.axhline(line["tflops"].iloc[0], label=name, **style)
    return line_by_length(axes, line, "tflops", reference_style(name), name)
