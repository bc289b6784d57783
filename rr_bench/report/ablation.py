"""What one setting of a method does: each control beside the method that it varies.

The variants have one colour, so they are rows of a panel, named beside it, instead of lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rr_bench.report.drawing import Album, add_below, file_name, new_figure, some_lengths
from rr_bench.report.series import control_bases, control_lines, density_of
from rr_bench.report.style import length_label, method_styles, split_label

_ROW = 0.2
_LABEL = 20
"""Characters of a line of a row's name."""


def draw_ablations(rows: pd.DataFrame, album: Album, suffix: str) -> None:
    """Draw ``ablation-<method>-<task>`` of every method that has controls.

    Args:
        rows: sparse rows of one setup.
        album: takes the figures.
        suffix: end of their names.
    """
    rows = rows[rows["recovery"].notna()]
    taken: dict[str, int] = {}
    for names in control_lines(rows["point"].astype(str).unique()):
        bases = control_bases(names)
        for task, own in rows[rows["point"].isin(names)].groupby("task"):
            if not own["point"].isin(bases).any():
                continue
            stem = f"ablation-{file_name(split_label(names[0])[0])}-{file_name(str(task))}"
            level = density_of(names[0])
            stem += f"-at_{level}" if level else ""
            taken[stem] = taken.get(stem, 0) + 1
            part = f"-{taken[stem]}" if taken[stem] > 1 else ""
            album.add(ablation(own, names, str(task)), f"{stem}{part}{suffix}")


def ablation(rows: pd.DataFrame, names: Sequence[str], task: str) -> Figure:
    """A row per variant, a panel per length, dots with intervals; the dashed line is the first row."""
    lengths = some_lengths(sorted(int(length) for length in rows["length"].unique()))
    shown = [name for name in names if (rows["point"] == name).any()]
    labels = [fill(label, _LABEL, break_long_words=False) for label in row_labels(shown)]
    heights = [0.12 * label.count("\n") + _ROW for label in labels]
    centres = np.cumsum(heights) - np.array(heights) / 2
    family = str(rows["family"].iloc[0])
    style = method_styles([(family, family)])[family] | {"linestyle": "", "markersize": 3.5}
    figure = new_figure(sum(heights) + 0.75)
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        own = rows[rows["length"] == length].set_index("point").reindex(shown)
        value = own["recovery"].to_numpy(float)
        ends = np.abs(own[["recovery_lo", "recovery_hi"]].to_numpy(float).T - value)
        axes.axvline(100, color="black", linewidth=0.8)
        if not np.isnan(value[0]):
            axes.axvline(value[0], color=style["color"], linewidth=0.7, linestyle=(0, (3, 2)))
        axes.errorbar(
            value, centres, xerr=np.nan_to_num(ends), fmt="none", ecolor=style["color"], elinewidth=0.9
        )
        axes.plot(value, centres, **style)
        for place in centres[np.isnan(value)]:
            axes.text(0.5, place, "not measured", transform=axes.get_yaxis_transform(),
                      ha="center", va="center", color="#777777", fontsize=6)  # fmt: skip
        axes.set_title(length_label(length))
        axes.set_yticks(centres, labels)
        axes.set_ylim(sum(heights), 0)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    add_below(figure, f"Recovery on {task} (%), dashed: first row")
    return figure


def row_labels(names: Sequence[str]) -> list[str]:
    """The first name in full, of the others what they add to it."""
    name, settings, rest = split_label(names[0])
    first = ", ".join(f"{key}={value}" for key, value in settings.items())
    labels = [f"{name}{rest}" + (f" ({first})" if first else "")]
    for other in names[1:]:
        _, own, _ = split_label(other)
        told = [f"{key}= {value}" for key, value in own.items() if settings.get(key) != value]
        labels.append(" ".join(told) or other)
    return labels
