"""Published figures (``results/paper``) beside one's own."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from rr_bench import PAPER
from rr_bench.report.drawing import Album, new_figure
from rr_bench.report.load import natural
from rr_bench.report.style import RC, WIDTH, length_label, method_styles
from rr_bench.tasks.helmet_table import RR_COLUMNS

AVERAGE = "Avg. (RR)"
_PUBLISHED = {"color": "#888888", "linestyle": (0, (2, 1.5)), "marker": "x", "markersize": 3}


def published_categories(model: str, folder: Path = PAPER) -> pd.DataFrame:
    """HELMET's official values of a model; empty if there are none. Names match up to case."""
    path = folder / "helmet_official.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["model", "length", "column", "value", "source"])
    frame = pd.read_csv(path)
    return frame[frame["model"].str.casefold() == model.casefold()]


def published_averages(model: str, folder: Path = PAPER) -> pd.DataFrame:
    """Averages and sparsities the RRAttention release prints for a model; empty if there are none."""
    path = folder / "rr_helmet.csv"
    if not path.is_file():
        return pd.DataFrame(columns=["model", "method", "setting", "sparsity", "value", "source"])
    frame = pd.read_csv(path)
    return frame[frame["model"].str.casefold() == model.casefold()]


def paper_lines(frame: pd.DataFrame, folder: Path = PAPER) -> list[str]:
    """Published averages of the models in a category frame, as Markdown list items."""
    lines = []
    for model in sorted(frame["model"].unique()):
        for _, row in published_averages(model, folder).iterrows():
            setting = "" if pd.isna(row["setting"]) else f"({row['setting']})"
            lines.append(
                f"- {model}, {row['method']}{setting}: {row['value']:.2f} at sparsity "
                f"{row['sparsity']:.2f} % — {row['source']}"
            )
    return lines


def draw_category_figures(frame: pd.DataFrame, album: Album, paper: Path = PAPER) -> None:
    """One figure per model: the six columns and their average by length, published values in grey.

    Args:
        frame: from :func:`rr_bench.report.categories.category_frame`.
        album: takes the figures: one per model with at least one complete column, no other.
        paper: folder of the published figures.
    """
    shown = frame[frame["value"].notna() & (frame["length"] > 0)]
    models = sorted(shown["model"].unique())
    with matplotlib.rc_context(RC):
        for model in models:
            suffix = f"-{model}" if len(models) > 1 else ""
            figure = _figure(shown[shown["model"] == model], published_categories(model, paper))
            album.add(figure, f"helmet_categories{suffix}")


def _figure(own: pd.DataFrame, published: pd.DataFrame) -> Figure:
    names = [column.name for column in RR_COLUMNS] + [AVERAGE]
    styles = method_styles((label.partition("(")[0], label) for label in own["method"])
    figure = new_figure(1.5 * 2 + 0.4, 2 * WIDTH)
    grid = figure.subplots(2, 4, sharex=True, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        rows = published[published["column"] == name].sort_values("length")
        if len(rows):
            axes.plot(rows["length"], rows["value"], label="full, published", **_PUBLISHED)
        for label in sorted(own["method"].unique(), key=natural):
            one = own[(own["method"] == label) & (own["column"] == name)].sort_values("length")
            if len(one):
                axes.plot(one["length"], one["value"], label=label, **styles[label])
        axes.set_title(name)
        axes.set_xscale("log", base=2)
        if not axes.lines:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "incomplete", transform=axes.transAxes, ha="center", color="#888888")
    lengths = sorted({int(n) for n in (*own["length"], *published["length"])})
    grid[0].set_xticks(lengths, [length_label(n) for n in lengths])
    grid[0].minorticks_off()
    grid[-1].set_axis_off()
    grid[3].tick_params(labelbottom=True)  # nothing is drawn below it
    figure.supxlabel("Length (tokens)", fontsize=RC["axes.labelsize"])
    figure.supylabel("Score (%)", fontsize=RC["axes.labelsize"])
    labels = {}
    for axes in grid:
        labels.update(dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)))
    figure.legend(labels.values(), labels.keys(), loc="outside upper center", ncols=2)
    return figure
