"""What one setting of a method does, or its always-kept blocks: each control beside what it varies.

The variants have one colour, so they are rows of a panel, named beside it, instead of lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rr_bench.report.drawing import Album, add_below, file_name, new_figure, part_suffix, some_lengths
from rr_bench.report.series import control_bases, control_lines, density_of, keep_bases
from rr_bench.report.style import length_label, method_styles, split_label

_ROW = 0.2
_LABEL = 20
"""Characters of a line of a row's name."""


def draw_ablations(rows: pd.DataFrame, album: Album, suffix: str) -> None:
    """Draw ``ablation-<method>-<task>`` of every method with controls, at its tasks of most controls.

    Args:
        rows: sparse rows of one setup.
        album: takes the figures.
        suffix: end of their names.
    """
    rows = rows[rows["recovery"].notna()]
    found = control_lines(rows["point"].astype(str).unique())
    controls = rows[rows["point"].isin(control_bases(name for names in found for name in names))]
    counts = controls.groupby(["family", "task"])["point"].nunique().unstack()
    taken: dict[str, int] = {}
    for names in found:
        own = rows[rows["point"].isin(names)]
        had = counts.loc[own["family"].iloc[0]]
        for task in counts.columns[had == had.max()]:
            stem = f"ablation-{file_name(split_label(names[0])[0])}-{file_name(str(task))}"
            level = density_of(names[0])
            stem += f"-at_{level}" if level else ""
            taken[stem] = taken.get(stem, 0) + 1
            part = part_suffix(taken[stem] - 1)
            album.add(ablation(own[own["task"] == task], names, str(task)), f"{stem}{part}{suffix}")
    _draw_keeps(rows, album, suffix)


def _draw_keeps(rows: pd.DataFrame, album: Album, suffix: str) -> None:
    """Draw ``ablation-keep-<method>-<task>`` of what was run under several rules of kept blocks."""
    groups: dict[str, list[str]] = {}
    for label, base in keep_bases(rows["point"].astype(str).unique()).items():
        groups.setdefault(base, [base]).append(label)
    taken: dict[str, int] = {}
    for base, names in groups.items():
        for task, own in rows[rows["point"].isin(names)].groupby("task"):
            stem = f"ablation-keep-{file_name(split_label(base)[0])}-{file_name(str(task))}"
            taken[stem] = taken.get(stem, 0) + 1
            part = part_suffix(taken[stem] - 1)
            album.add(ablation(own, names, str(task)), f"{stem}{part}{suffix}")


def ablation(rows: pd.DataFrame, names: Sequence[str], task: str) -> Figure:
    """A row per variant, a panel per length, dots with intervals; dashed is the base of each group."""
    lengths = some_lengths(sorted(int(length) for length in rows["length"].unique()))
    shown = [name for name in names if (rows["point"] == name).any()]
    bases = control_bases(names) | keep_bases(names)
    bases = {name: base for name, base in bases.items() if base in shown}
    labels = [_wrapped(label) for label in row_labels(shown, bases)]
    heights = np.array([0.12 * label.count("\n") + _ROW for label in labels])
    ends = np.cumsum(heights)
    places = dict(zip(shown, zip(ends - heights, ends, strict=True), strict=True))
    centres = ends - heights / 2
    family = str(rows["family"].iloc[0])
    style = method_styles([(family, family)])[family] | {"linestyle": "", "markersize": 3.5}
    figure = new_figure(ends[-1] + 0.75)
    grid = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, length in zip(grid, lengths, strict=True):
        own = rows[rows["length"] == length].set_index("point").reindex(shown)
        value = own["recovery"].to_numpy(float)
        bars = np.abs(own[["recovery_lo", "recovery_hi"]].to_numpy(float).T - value)
        axes.axvline(100, color="black", linewidth=0.8)
        for base in dict.fromkeys(bases.values()):
            last = max(places[name][1] for name in shown if bases.get(name) == base)
            axes.plot([own["recovery"][base]] * 2, [places[base][0], last],
                      color=style["color"], linewidth=0.7, linestyle=(0, (3, 2)))  # fmt: skip
        axes.errorbar(
            value, centres, xerr=np.nan_to_num(bars), fmt="none", ecolor=style["color"], elinewidth=0.9
        )
        axes.plot(value, centres, **style)
        for place in centres[np.isnan(value)]:
            axes.text(0.5, place, "not measured", transform=axes.get_yaxis_transform(),
                      ha="center", va="center", color="#777777", fontsize=6)  # fmt: skip
        axes.set_title(length_label(length))
        axes.set_yticks(centres, labels)
        axes.set_ylim(ends[-1], 0)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    add_below(figure, f"Recovery on {task} (%)", "dashed: the method whose variants stand below it")
    return figure


def row_labels(names: Sequence[str], bases: Mapping[str, str]) -> list[str]:
    """What a variant changes in the method above it; of all others the name with its settings."""
    labels = []
    for label in names:
        name, settings, rest = split_label(label)
        if label in bases:
            _, common, same = split_label(bases[label])
            told = [f"{key}={value}" for key, value in settings.items() if common.get(key) != value]
            told += [rest.removeprefix(", ")] if rest != same else []
            labels.append(" ".join(told))
        else:
            inside = ", ".join(f"{key}={value}" for key, value in settings.items())
            labels.append(f"{name}{rest}" + (f" ({inside})" if inside else ""))
    return labels


def _wrapped(label: str) -> str:
    """A label in lines, cut behind an equals sign only where a line is too long otherwise."""
    lines = fill(label, _LABEL, break_long_words=False).splitlines()
    return "\n".join(one if len(one) <= _LABEL else one.replace("=", "=\n", 1) for one in lines)
