"""The summary as CSV, as a Markdown page and as text for a terminal: the verdict before the rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from textwrap import fill
from typing import Any

import pandas as pd

from rr_bench.report import video_mme
from rr_bench.report.environment import environment_lines
from rr_bench.report.headline import headline, score_tables
from rr_bench.report.recovery import RESAMPLES
from rr_bench.report.series import MOST
from rr_bench.report.style import length_label
from rr_bench.report.table import tabulated
from rr_bench.report.tables import ANSWERED, COLUMNS, Summary
from rr_bench.report.verdict import enough, standings, verdict
from rr_bench.store.cells import SHORT
from rr_bench.store.redact import redact

WIDTH = 100
"""Columns of a terminal that the table fits, long labels on several lines."""

NOTES = 10
"""Notes that a terminal shows; the page has all."""

ROWS = 60
"""Cells that a terminal shows one by one; of more, one row per method."""

_RUN_SIDE = ("dtype", "device", "seed", "source")
_CONSTANT = ("model", "keep", "questions", "truncated", "failed", "kernel", "status", *_RUN_SIDE)
"""Columns that are left out where they are the same, or –, in every row."""

_MARKDOWN = (
    *("model", "method", "keep", "task", "length", "n", "questions", "score", "dense_score"),
    *("recovery", "interval", "verdict", "density", "prefill_s", "speedup", "truncated", "failed"),
    *("kernel", "status", *_RUN_SIDE),
)
_PERCENT = (
    "score",
    "dense_score",
    "recovery",
    "recovery_lo",
    "recovery_hi",
    "density",
    "sparsity",
    ANSWERED,
)


def definitions(margin: float) -> str:
    """What the columns mean, as a Markdown list."""
    return f"""\
- **n**: scored samples; **questions**: how many they carry together. **failed**: samples without a
  score; they are in no mean. **truncated**: samples whose context was cut to fit.
- **score**: mean over samples x 100. **dense_score**: that of dense attention on the same samples.
- **recovery**: mean score / mean dense score x 100. **interval**: its 95 % paired bootstrap over
  samples ({RESAMPLES:,} resamples); too narrow below about 20 samples.
- **verdict**: **kept** where the interval lies within {margin:g} points of 100 and at least
  {enough(margin)} samples are behind it; **lost** or **gained** where recovery is farther off and
  the interval leaves out 100; else **undecided**. Of several cells each has equal weight; samples are
  drawn within them.
- **density**: share of the 128 x 128 blocks of the causal triangle that prefill attention computed,
  mean over heads, layers and samples.
- **prefill_s**: median seconds of a prompt's forward pass at whatever load the machine had;
  **speedup**: that of dense attention over it, on one kind of device. Neither is a benchmark.
- **line @ density**: settings that were each chosen for one length, such as calibrated ones, count as
  one method where their densities are near each other.
- **figures** hold {MOST} sparse methods at most, of more there are further ones. Those with settings
  beside the knob, controls, have figures of their own.
"""


def to_csv(frame: pd.DataFrame) -> str:
    """The summary in full precision; undefined values are empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(summary: Summary) -> str:
    """The summary as a Markdown page: verdict, methods, problems, notes, environment, cells."""
    parts = ["# Score recovery", "", *(f"- {line}" for line in verdict(summary.standings))]
    for table in score_tables(summary):
        shown = tabulated(table.text("**{}**"), "github")
        parts += ["", f"## {table.title}", "", *([table.caption, ""] if table.caption else []), shown]
    parts += ["", "## Definitions", "", definitions(summary.margin).rstrip()]
    for title, lines in (("Problems", summary.problems), ("Notes", summary.notes)):
        if lines:
            parts += ["", f"## {title}", "", *(f"- {redact(line)}" for line in lines)]
    parts += ["", "## Measured on", *environment_lines(cell.env for cell in summary.cells)]
    varying = [name for name in summary.frame.columns if name not in COLUMNS]
    cells = _text_table(summary.frame, [*_MARKDOWN, *varying])
    parts += ["", "## Cells", "", tabulated(cells, "github")]
    return "\n".join(parts) + "\n"


def to_text(summary: Summary, keys: Collection[str] | None = None) -> str:
    """The summary for a terminal: the verdict, then the main columns of the cells, or of the methods
    where there are more than :data:`ROWS` cells.

    Args:
        summary: the summary.
        keys: full keys of the cells to show; None shows every row, the missing ones too.
    """
    frame = select(summary.frame, keys)
    found = summary.standings
    if keys is not None:
        found = standings(frame, summary.pairs, summary.margin)
    lines = [fill(line, WIDTH, subsequent_indent="  ") for line in verdict(found)]
    for table in video_mme.score_tables(summary.cells)[:1]:
        lines += ["", table.title, _fitting(table.text())]
    many = len(frame) > ROWS and bool(found)
    if not many:
        return "\n".join([*lines, "", _fitting(cell_table(frame))])
    table = headline(found)
    title = f"{len(frame)} cells, each listed in summary.md; by method: {table.caption}"
    return "\n".join([*lines, "", fill(title, WIDTH), _fitting(table.text())])


def cell_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell."""
    table = pd.DataFrame(index=frame.index)
    if frame["setup"].nunique() > 1:
        table["setup"] = frame["setup"]
    table["method"], table["task"] = frame["series"], frame["task"]
    table["length"] = [length_label(int(length)) for length in frame["length"]]
    table["n"] = frame["n"]
    for name, column in (("score", "score"), ("dense", "dense_score")):
        table[name] = [_text(column, value) for value in frame[column]]
    columns = (frame[name] for name in ("recovery", "recovery_lo", "recovery_hi"))
    table["recovery"] = [_with_ends(*row) for row in zip(*columns, strict=True)]
    table["density"] = [_text("density", value) for value in frame["density"]]
    if ANSWERED in frame:
        table[ANSWERED] = [_text(ANSWERED, value) for value in frame[ANSWERED]]
    if frame["failed"].fillna(0).gt(0).any():
        table["failed"] = [_text("failed", value) for value in frame["failed"]]
    if (frame["status"] != "done").any():
        table["status"] = frame["status"]
    return table


def _with_ends(value: float, lo: float, hi: float) -> str:
    return _text("recovery", value) + ("" if pd.isna(lo) else f" ({lo:.0f}–{hi:.0f})")


def notes_text(notes: Sequence[str]) -> str:
    """Notes for a terminal, the first :data:`NOTES` of them."""
    lines = [f"note: {note}" for note in notes[:NOTES]]
    more = len(notes) - len(lines)
    return "\n".join([*lines, *([f"note: {more} more in the pages below"] if more else [])])


def _fitting(table: pd.DataFrame) -> str:
    """The table in :data:`WIDTH` columns; what is too long in it, labels as a rule, is wrapped."""
    widths = {
        # tabulate gives a title two columns more.
        str(name): max(len(str(name)) + 2, *map(len, table[name].astype(str)), 0)
        for name in table
    }
    wide = [name for name in ("setup", "method") if name in table]
    room = WIDTH - 2 * (len(widths) - 1) - sum(widths[name] for name in widths if name not in wide)
    limits = [max(12, room // len(wide)) if name in wide else None for name in table]
    return tabulated(table, "simple", maxcolwidths=limits)


def select(frame: pd.DataFrame, keys: Collection[str] | None) -> pd.DataFrame:
    """The rows of the cells with these keys; all rows without keys."""
    return frame if keys is None else frame[frame["cell"].isin({key[:SHORT] for key in keys})]


def _text_table(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Cells as text: percent with one decimal, "–" for undefined, constant columns dropped."""
    text = pd.DataFrame(index=frame.index)
    for name in names:
        if name in _CONSTANT and frame[name].nunique() < 2:
            continue
        if name == "interval":
            ends = zip(frame["recovery_lo"], frame["recovery_hi"], strict=True)
            text[name] = ["–" if pd.isna(lo) else f"{lo:.1f}–{hi:.1f}" for lo, hi in ends]
        else:
            text[name] = [_text(name, value) for value in frame[name]]
    return text


def _text(name: str, value: Any) -> str:
    if pd.isna(value) or value == "":
        return "–"
    if name in _PERCENT:
        return f"{value:.1f}"
    if name in ("prefill_s", "speedup"):
        return f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")
