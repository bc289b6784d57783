"""Density by layer: where in the model a method saves. Records hold the mean over a layer's heads."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rr_bench.report.drawing import Album, add_below, new_figure
from rr_bench.report.load import natural
from rr_bench.report.series import MOST, control_bases
from rr_bench.report.style import RC, legend_labels, length_label
from rr_bench.store.cells import SHORT
from rr_bench.store.stored import StoredCell

DENSITY = 35
"""Of many settings of a method, the figure shows the one nearest to this density (%)."""


def draw_layers(frame: pd.DataFrame, cells: Sequence[StoredCell], album: Album) -> None:
    """Draw ``density_by_layer`` of every setup, at the task and length of most methods.

    Args:
        frame: the summary's rows.
        cells: the cells behind them.
        album: takes the figures.
    """
    by_key = {
        cell.info.key[:SHORT]: 100 * found
        for cell in cells
        if (found := cell.columns.by_layer) is not None
    }
    rows = frame[~frame["dense"].astype(bool) & frame["cell"].isin(by_key)]
    setups = list(rows.groupby("setup"))
    with matplotlib.rc_context(RC):
        for number, (_, own) in enumerate(setups):
            counts = own.groupby(["task", "length"])["point"].nunique()
            task, length = max(counts.index, key=lambda place: (counts[place], place[1], place[0]))
            there = own[(own["task"] == task) & (own["length"] == length)]
            names = _shown(there)
            cell_of = dict(zip(there["point"].astype(str), there["cell"], strict=True))
            values = {name: by_key[cell_of[name]] for name in names}
            stem = "density_by_layer" + (f"-{number + 1}" if len(setups) > 1 else "")
            album.add(layers(values, f"{task}, {length_label(int(length))}"), stem)


def _shown(rows: pd.DataFrame) -> list[str]:
    """The methods, no controls; of many, the setting of each that is nearest to one density."""
    bases = control_bases(rows["point"].astype(str))
    rows = rows[~rows["point"].isin(bases)]
    if len(rows) > MOST:
        away = (rows["density"] - DENSITY).abs()
        rows = rows.assign(away=away).sort_values("away").drop_duplicates("line").head(2 * MOST)
    return sorted(rows["point"].astype(str), key=natural)


def layers(values: dict[str, NDArray[np.float64]], title: str) -> Figure:
    """A row of colours per method, its layers from left to right."""
    labels = legend_labels(list(values))
    most = max(map(len, values.values()))
    grid = np.full((len(values), most), np.nan)
    for row, own in zip(grid, values.values(), strict=True):
        row[: len(own)] = own
    figure = new_figure(0.95 + 0.19 * len(values))
    axes = figure.subplots()
    image = axes.imshow(grid, aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    axes.set_yticks(range(len(values)), [labels[name] for name in values])
    axes.set_xticks(range(0, most, max(1, -(-most // 8))))
    axes.grid(visible=False)
    axes.set_title(f"Density (%), {title}")
    figure.colorbar(image, ax=axes, pad=0.02, aspect=12, ticks=[0, 50, 100])
    add_below(figure, "Layer", "mean over heads: single heads are not recorded")
    return figure
