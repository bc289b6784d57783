"""The papers' HELMET tables: six columns as RRAttention's, seven as HELMET's, published rows beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from rr_bench.report.categories import AVERAGES, shown_here
from rr_bench.report.helmet_recovery import best_places, column_recoveries, recovery_table
from rr_bench.report.identity import Identity
from rr_bench.report.load import natural
from rr_bench.report.paper import published_averages, published_categories
from rr_bench.report.style import length_label
from rr_bench.report.table import Column, Table
from rr_bench.report.tables import Summary
from rr_bench.store.stored import StoredCell
from rr_bench.tasks.helmet_table import HELMET_COLUMNS, RR_COLUMNS

OWN = "this store"
_MEAN = "mean"
_CAPTION = (
    "Bold: the best sparse method of a complete column at a length, where the interval of its recovery "
    "(helmet_recovery) lies above all others. Rows of another source are the same model's, run "
    "elsewhere on HELMET's own data."
)


def helmet_tables(frame: pd.DataFrame, summary: Summary) -> list[Table]:
    """``helmet_six`` and ``helmet_seven``: a row per length and method, dense first, then their mean;
    ``helmet_recovery`` with intervals.

    Args:
        frame: from :func:`rr_bench.report.categories.category_frame`.
        summary: of the cells behind it.
    """
    sparsity = _sparsity(summary.cells)
    found = column_recoveries(summary)
    marked = best_places(found)
    tables = []
    for name, columns, average in zip(
        ("helmet_six", "helmet_seven"), (RR_COLUMNS, HELMET_COLUMNS), AVERAGES, strict=True
    ):
        names = [*(column.name for column in columns), average.name]
        rows = [*_own(frame, names, sparsity), *_published(frame, names)]
        heads = {
            "model": Column("model"),
            "length": Column("tokens; mean: over the lengths"),
            "method": Column("method with its settings"),
            **{one: Column("score, %; k/n where datasets are missing", 1) for one in names},
            "sparsity": Column("skipped share of the causal blocks, %", 1),
            "source": Column("where the row comes from"),
        }
        table = pd.DataFrame(rows, columns=list(heads))
        title = f"HELMET, {len(columns)} columns"
        best = {
            (number, column)
            for number, row in enumerate(rows)
            for column in names
            if (*row.get("_place", ()), column) in marked
        }
        tables.append(Table(name, title, table, heads, _CAPTION, frozenset(best)))
    return [*tables, recovery_table(found)] if found else tables


def _own(
    frame: pd.DataFrame, names: Sequence[str], sparsity: dict[tuple[str, str, int], float]
) -> list[dict[str, Any]]:
    rows = []
    for (setup, method, _), own in frame.groupby(["setup", "method", "length"], sort=False):
        length = int(own["length"].iloc[0])
        values = {
            row["column"]: f"{row['have']}/{row['of']}" if pd.isna(row["value"]) else row["value"]
            for row in own.to_dict("records")
        }
        place = str(setup), str(method), length
        rows.append(
            {
                "model": own["model"].iloc[0],
                "length": length_label(length) if length else _MEAN,
                "method": method,
                **{name: values[name] for name in names},
                "sparsity": sparsity.get(place),
                "source": OWN,
                "_place": place,
                "_order": (str(setup), length or 2**40, method != "full", natural(str(method))),
            }
        )
    return sorted(rows, key=lambda row: row["_order"])


def _sparsity(cells: Sequence[StoredCell]) -> dict[tuple[str, str, int], float]:
    """Mean over a method's cells at a length, and under length 0 over all of them."""
    identity = Identity(cells)
    found: dict[tuple[str, str, int], list[float]] = {}
    for cell in cells:
        densities = cell.densities.tolist()
        if not shown_here(cell) or not densities:
            continue
        columns = identity.columns(cell)
        for length in (cell.info.length, 0):
            place = columns["setup"], columns["series"], length
            found.setdefault(place, []).append(100 - 100 * sum(densities) / len(densities))
    return {place: sum(values) / len(values) for place, values in found.items()}


def _published(frame: pd.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that others published of the models in the frame."""
    rows: list[dict[str, Any]] = []
    for model in sorted(map(str, frame["model"].unique())):
        official = published_categories(model)
        official = official[official["column"].isin(names)]
        for (_, method, source), own in official.groupby(["length", "method", "source"]):
            length = int(own["length"].iloc[0])
            values = dict(zip(own["column"], own["value"], strict=True))
            rows.append(
                {"model": model, "length": length_label(length), "method": method}
                | values
                | {"sparsity": 0.0, "source": source}
            )
        if AVERAGES[0].name in names:
            for row in published_averages(model).to_dict("records"):
                setting = "" if pd.isna(row["setting"]) else f"({row['setting']})"
                rows.append(
                    {
                        "model": model,
                        "length": _MEAN,
                        "method": f"{row['method']}{setting}",
                        AVERAGES[0].name: row["value"],
                        "sparsity": row["sparsity"],
                        "source": row["source"],
                    }
                )
    return rows
