"""The summary as CSV, as a Markdown page and as text for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from rr_bench.report.environment import environment_lines
from rr_bench.report.recovery import RESAMPLES
from rr_bench.report.series import MOST
from rr_bench.report.tables import COLUMNS, Summary
from rr_bench.store.redact import redact

_VARYING = ("dtype", "device", "seed", "source")
_CSV_ONLY = ("family", "dense", "series", "setup", "cell")
_PERCENT = ("score", "dense_score", "recovery", "recovery_lo", "recovery_hi", "density", "sparsity")

DEFINITIONS = f"""\
- **n**: scored samples. **questions**: how many questions they carry together.
- **score**: mean over samples x 100. **dense_score**: the same for dense attention, over the samples
  of the row.
- **recovery**: mean sparse score / mean dense score x 100 over the same samples; undefined (–) where
  the dense mean is 0. **recovery_lo**, **recovery_hi**: its 95 % interval, a paired percentile
  bootstrap over samples with {RESAMPLES:,} resamples and a fixed seed. **within_noise**: "yes" where
  that interval covers 100. With fewer than about 20 samples the interval is too narrow.
- **density**: share of the 128 x 128 blocks of the causal triangle that prefill attention computed,
  mean over heads, layers and samples. **sparsity**: 100 − density. Dense attention has density 100.
- **prefill_s**: median time of a prompt's forward pass in seconds while it was scored, at whatever load
  the machine had. It says how long a run takes, not which method is faster: that is for `latency.md`.
- **figures** of more than {MOST} sparse variants: by length, methods at published settings; variants
  with a setting that their method leaves at its default are controls, in a figure of their own; by
  density, a line joins the settings of one method, from the least dense to the densest. This table
  has all of them.
- **truncated**: samples whose context was cut to fit. **failed**: samples without a score; they are
  in no mean.
"""


def to_csv(frame: pd.DataFrame) -> str:
    """The summary in full precision; undefined values are empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_markdown(summary: Summary) -> str:
    """The summary as a Markdown page: environment, table, definitions, problems."""
    parts = ["# Score recovery", *environment_lines(cell.env for cell in summary.cells), ""]
    table = _text_table(summary.frame, [name for name in COLUMNS if name not in _CSV_ONLY])
    parts += [
        tabulate(table, headers="keys", tablefmt="github", showindex=False, disable_numparse=True)
    ]
    parts += ["", DEFINITIONS]
    for title, lines in (("Problems", summary.problems), ("Notes", summary.notes)):
        if lines:
            parts += [f"## {title}", "", *(f"- {redact(line)}" for line in lines), ""]
    return "\n".join(parts).rstrip() + "\n"


def to_text(summary: Summary, keys: Collection[str] | None = None) -> str:
    """The summary for a terminal: the main columns, then the notes.

    Args:
        summary: the summary.
        keys: full keys of the cells to show; None shows every row, the missing ones too.
    """
    frame = select(summary.frame, keys)
    names = ["method", "task", "length", "n", "score", "dense_score", "recovery", "interval", "density"]
    names += ["prefill_s", "failed", "kernel", "status"]
    if frame["model"].nunique() > 1:
        names.insert(0, "model")
    table = _text_table(frame, names)
    lines = [tabulate(table, headers="keys", tablefmt="simple", showindex=False, disable_numparse=True)]
    return "\n".join([*lines, *(f"note: {note}" for note in summary.notes)])


def select(frame: pd.DataFrame, keys: Collection[str] | None) -> pd.DataFrame:
    """The rows of the cells with these keys; all rows without keys."""
    return frame if keys is None else frame[frame["cell"].isin({key[:12] for key in keys})]


def _text_table(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Cells as text: percent with one decimal, "–" for undefined, constant setup columns dropped."""
    text = pd.DataFrame(index=frame.index)
    for name in names:
        if name in _VARYING and frame[name].nunique() < 2:
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
    if name == "prefill_s":
        return f"{value:.3g}"
    if name == "within_noise":
        return "yes" if value else "no"
    return str(value).replace("|", "/").replace("\n", " ")
