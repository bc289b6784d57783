"""What every figure needs: a page of one column, an axis of lengths, files in both formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rr_bench.report.style import WIDTH, length_label


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


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and PDF without dates, so that equal results give equal files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + ending) for ending in (".png", ".pdf")]
    for path, stamp in zip(paths, ("Software", "CreationDate"), strict=True):
        figure.savefig(path, metadata={stamp: None})
    return paths
