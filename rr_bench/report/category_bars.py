"""HELMET's columns as bars, one figure per model, with HELMET's own values marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rr_bench import PAPER
from rr_bench.report.drawing import (
    LEGEND_LINE,
    Album,
    add_below,
    file_name,
    legend_columns,
    new_figure,
    part_suffix,
)
from rr_bench.report.load import natural
from rr_bench.report.paper import published_categories
from rr_bench.report.series import parts
from rr_bench.report.style import RC, family_looks, legend_labels, length_label, split_label
from rr_bench.tasks.helmet_table import RR_COLUMNS

AVERAGE = "Avg. (RR)"

_BAR = 0.1
"""Inches of a bar ..."""
_GAP = 0.08
"""... and between two columns."""
_HATCHES = ("", "////", "....", "xxxx")


def draw_category_figures(frame: pd.DataFrame, album: Album, paper: Path = PAPER) -> None:
    """Bars of the six columns and their average, at the shortest and the longest length.

    Args:
        frame: from :func:`rr_bench.report.categories.category_frame`.
        album: takes the figures: of every model with at least one complete column, of no other.
        paper: folder of the published figures.
    """
    frame = frame[frame["length"] > 0]
    models = sorted(frame.loc[frame["value"].notna(), "model"].unique())
    with matplotlib.rc_context(RC):
        for model in models:
            suffix = f"-{file_name(model)}" if len(models) > 1 else ""
            own = frame[frame["model"] == model]
            for number, methods in enumerate(parts(sorted(own["method"].unique(), key=_dense_first))):
                figure = category_bars(own, methods, published_categories(model, paper))
                album.add(figure, f"helmet_categories{part_suffix(number)}{suffix}")


def _dense_first(method: str) -> Any:
    return method != "full", natural(method)


def category_bars(own: pd.DataFrame, methods: Sequence[str], published: pd.DataFrame) -> Figure:
    """Bars by column, a colour per method, a hatch per variant; incomplete columns as ``k/n``.

    Args:
        own: one model's rows.
        methods: who is shown, from top to bottom.
        published: HELMET's values of dense attention, marked with a line where there are any.
    """
    every = [column.name for column in RR_COLUMNS] + [AVERAGE]
    have = set(own.loc[own["value"].notna(), "column"])
    names = [name for name in every if name in have]
    lacking = ", ".join(name for name in every if name not in have)
    lengths = sorted({int(own["length"].min()), int(own["length"].max())})
    styles = bar_styles(methods)
    band = len(methods) * _BAR + _GAP
    height = max(len(names) * band, 0.6)
    figure = new_figure(height + 0.9 + LEGEND_LINE * -(-len(methods) // 2))
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        records = own[own["length"] == length].to_dict("records")
        there = {(row["column"], row["method"]): row for row in records}
        for i, name in enumerate(names):
            for k, method in enumerate(methods):
                _bar(axes, there, (name, method), i * band + (k + 0.5) * _BAR, styles[method])
            said = published[(published["column"] == name) & (published["length"] == length)]
            for value in said["value"]:
                axes.plot([value] * 2, [i * band, (i + 1) * band - _GAP], color="#B22222", linewidth=1)
        axes.set_xlim(0, 100)
        axes.set_ylim(len(names) * band, -_GAP)
        axes.set_yticks([i * band + (band - _GAP) / 2 for i in range(len(names))], names)
        axes.grid(axis="y", visible=False)
        axes.set_title(length_label(length))
    remark = "k/n: so many of the column's datasets are complete"
    marked = "; red: dense attention as HELMET published it" if len(published) else ""
    left_out = f"; complete nowhere: {lacking}" if lacking else ""
    add_below(figure, "Score (%)", remark + marked + left_out)
    labels = legend_labels(list(methods))
    handles = [Patch(label=labels[method], **styles[method]) for method in methods]
    columns = legend_columns(list(labels.values()))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=1.2)
    return figure


def _bar(
    axes: Axes,
    rows: Mapping[tuple[str, str], Mapping[Any, Any]],
    where: tuple[str, str],
    place: float,
    style: dict[str, Any],
) -> None:
    row = rows.get(where)
    if row is None:
        return
    if pd.isna(row["value"]):
        text = f"{row['have']}/{row['of']}"
        axes.text(1, place, text, va="center", fontsize=6, color="#555555")
    else:
        axes.barh(place, row["value"], height=0.9 * _BAR, **style)


def bar_styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A method's own colour, and a hatch for each further variant of it."""
    families = {method: split_label(method)[0] for method in methods}
    looks = family_looks(families.values())
    styles: dict[str, dict[str, Any]] = {}
    for method, family in families.items():
        variants = [other for other in methods if families[other] == family]
        hatch = _HATCHES[variants.index(method) % len(_HATCHES)]
        styles[method] = {"facecolor": looks[family][0], "edgecolor": "white", "linewidth": 0.2}
        styles[method] |= {"hatch": hatch} if hatch else {}
    return styles
