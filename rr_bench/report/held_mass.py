"""Where attention is lost: the true mass in a method's blocks, as a table and by layer and head."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rr_bench.report.drawing import Album, file_name, new_figure, part_suffix
from rr_bench.report.identity import keep_text
from rr_bench.report.load import natural
from rr_bench.report.style import RC, legend_labels, length_label
from rr_bench.report.table import Column, Table
from rr_bench.store.diagnosis import TABLES
from rr_bench.store.stored import StoredCell

MOST = 6
"""Methods of one figure."""

COLUMNS = {
    "model": Column("model"),
    "task": Column("task"),
    "length": Column("tokens of prompt and answer"),
    "method": Column("method with its settings"),
    "keep": Column("blocks that are always computed"),
    "density": Column("kept share of the causal blocks, %", 1),
    "mass": Column("true attention mass inside the blocks, mean over queries, %", 1),
    "oracle_mass": Column("the most that as many blocks of every row hold, %", 1),
    "worst": Column("mass of the query of a block that keeps least, mean over query blocks, %", 1),
    "oracle_worst": Column("that of `oracle`'s blocks, %", 1),
    "oracle_max_worst": Column("that of `oracle_max`'s blocks, %", 1),
    "densest_head": Column("layer.head that keeps most blocks, and what share, %"),
    "worst_head": Column("layer.head whose least kept query keeps least, and what it keeps, %"),
    "prompts": Column("prompts behind the row"),
}
CAPTION = (
    "Means over layers and heads. All methods select on the inputs of one dense prefill; the oracles "
    "take in every query row as many blocks as the line's method, by summed and by largest true mass."
)
PANELS = {
    "density": "density",
    "mass": "mean\nquery",
    "worst": "worst\nquery",
    "oracle_max_worst": "worst of\noracle_max",
}
"""Tables that the figure shows, and what it calls them."""


def held_mass_tables(cells: Sequence[StoredCell]) -> list[Table]:
    """One line per diagnosed cell; nothing if there is none."""
    rows = [_row(cell) for cell in _diagnosed(cells)]
    if not rows:
        return []
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return [Table("held_mass", "Attention mass in the kept blocks", frame, COLUMNS, CAPTION)]


def draw_held_mass(cells: Sequence[StoredCell], album: Album) -> None:
    """Draw ``held_mass-<task>`` of every model, at its longest length."""
    groups: dict[tuple[str, str], list[StoredCell]] = {}
    for cell in _diagnosed(cells):
        groups.setdefault((cell.info.task, _model(cell)), []).append(cell)
    taken: dict[str, int] = {}
    with matplotlib.rc_context(RC):
        for (task, model), own in groups.items():
            length = max(cell.info.length for cell in own)
            shown = [cell for cell in own if cell.info.length == length]
            for first in range(0, len(shown), MOST):
                stem = f"held_mass-{file_name(task)}"
                taken[stem] = taken.get(stem, 0) + 1
                title = f"{model}, {task}, {length_label(length)}"
                figure = heat_maps(shown[first : first + MOST], title)
                album.add(figure, stem + part_suffix(taken[stem] - 1))


def heat_maps(cells: Sequence[StoredCell], title: str) -> Figure:
    """A row of panels per method: layers from left to right, heads from top to bottom."""
    short = legend_labels([_label(cell) for cell in cells])
    names = [short[_label(cell)] for cell in cells]
    kept = [
        f", keep {_keep(cell)}" if names.count(name) > 1 else ""
        for cell, name in zip(cells, names, strict=True)
    ]
    names = [
        f"{name}{keep}, {_density(cell):.0f}\N{NO-BREAK SPACE}%"
        for name, keep, cell in zip(names, kept, cells, strict=True)
    ]
    layers = [str(layer) for layer in (cells[0].diagnosis or {})["layers"]]
    step = -(-len(layers) // 4)
    figure = new_figure(1.1 + 0.62 * len(cells))
    grid = figure.subplots(len(cells), len(PANELS), sharex=True, sharey=True, squeeze=False)
    for cell, name, line in zip(cells, names, grid, strict=True):
        for axes, table in zip(line, PANELS, strict=True):
            shares = tables_of(cell)[table].T
            image = axes.imshow(
                shares, aspect="auto", cmap="cividis", vmin=0, vmax=100, interpolation="nearest"
            )
            axes.grid(visible=False)
            axes.set_xticks(range(0, len(layers), step), layers[::step])
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        line[0].set_ylabel("head")
        line[-1].yaxis.set_label_position("right")
        line[-1].set_ylabel(fill(name, 14), rotation=0, ha="left", va="center")
    for axes, words in zip(grid[0], PANELS.values(), strict=True):
        axes.set_title(words)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    bar = figure.colorbar(image, ax=grid, location="bottom", aspect=40, pad=0.02)
    bar.set_label(
        "Density, and attention mass in the blocks (%);\n"
        "beside a method its mean density;\n"
        "worst: of a query block the query\nthat keeps least",
        fontsize=RC["axes.labelsize"],
    )
    figure.suptitle(title, fontsize=RC["axes.titlesize"])
    return figure


def tables_of(cell: StoredCell) -> dict[str, NDArray[np.float64]]:
    """The diagnosis in percent, ``[layers, heads]`` each."""
    assert cell.diagnosis is not None
    return {name: 100 * np.array(cell.diagnosis[name], float) for name in TABLES}


def _diagnosed(cells: Sequence[StoredCell]) -> list[StoredCell]:
    found = [cell for cell in cells if cell.diagnosis is not None]
    return sorted(
        found, key=lambda cell: (_model(cell), cell.info.task, cell.info.length, natural(_label(cell)))
    )


def _row(cell: StoredCell) -> dict[str, object]:
    found = tables_of(cell)
    worst, density = found["worst"], found["density"]
    diagnosis = cell.diagnosis or {}

    def named(place: np.intp, table: NDArray[np.float64]) -> str:
        layer, head = np.unravel_index(place, table.shape)
        return f"{diagnosis['layers'][layer]}.{head}: {table[layer, head]:.1f}"

    return {
        "model": _model(cell),
        "task": cell.info.task,
        "length": cell.info.length,
        "method": _label(cell),
        "keep": _keep(cell),
        **{name: float(found[name].mean()) for name in TABLES},
        "densest_head": named(density.argmax(), density),
        "worst_head": named(worst.argmin(), worst),
        "prompts": diagnosis["prompts"],
    }


def _density(cell: StoredCell) -> float:
    return float(tables_of(cell)["density"].mean())


def _model(cell: StoredCell) -> str:
    return str(cell.info.model["name"])


def _label(cell: StoredCell) -> str:
    return str(cell.info.method["label"])


def _keep(cell: StoredCell) -> str:
    return keep_text(cell.info.settings.get("keep"))
