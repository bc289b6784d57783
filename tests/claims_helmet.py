"""What the pages say of HELMET's tasks; see :mod:`tests.results_claims`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from tests.claims_tables import QWEN, dense_scores, helmet_cell, row, table

MINFERENCE = "minference_native(patterns=qwen25_coder_15b, ratio={})"
EQUAL_TASKS = {
    "rr": ("rr(tau=0.56688)", "rr(tau=0.82984)"),
    "rr, stride 4": ("rr(tau=0.56688, stride=4)", "rr(tau=0.82984, stride=4)"),
    "rr_plus": ("rr_plus(tau=0.65969)", "rr_plus(tau=0.86852)"),
    "rr_plus_fast": ("rr_plus_fast(tau=0.56688)", "rr_plus_fast(tau=0.80664)"),
    "xattention": ("xattention(tau=0.62875)", "xattention(tau=0.84531)"),
    "minference, native": (MINFERENCE.format(0.045303), MINFERENCE.format(0.16593)),
    "cosa": ("cosa(topp=0.69062)", "cosa(topp=0.88398)"),
    "flexprefill": ("flexprefill_no_minimum(gamma=0.78344)", "flexprefill_no_minimum(gamma=0.90719)"),
    "flashprefill": ("", "flashprefill(alpha=0.23438)"),
}
"""HELMET's tasks at equal density, 8K: each method's settings for 20 and for 35 % of the blocks."""

EQUAL_TASKS_32K = {
    "rr": ("rr(tau=0.79891)", "rr(tau=0.92266)"),
    "rr_plus": ("rr_plus(tau=0.84531)", "rr_plus(tau=0.94199)"),
    "rr_plus_fast": ("rr_plus_fast(tau=0.78344)", "rr_plus_fast(tau=0.90332)"),
    "xattention": ("xattention(tau=0.81437)", "xattention(tau=0.92652)"),
    "minference, native": (MINFERENCE.format(0.22042), MINFERENCE.format(0.58356)),
    "cosa": ("cosa(topp=0.82984)", "cosa(topp=0.93812)"),
    "flexprefill": ("flexprefill_no_minimum(gamma=0.82211)", "flexprefill_no_minimum(gamma=0.93812)"),
    "flashprefill": ("flashprefill(alpha=0.10156)", "flashprefill(alpha=0.037109)"),
}
"""The same at 32K."""


def of_equal_tasks() -> Iterator[str]:
    columns = "RAG", "ICL", "Re-rank", "all"
    yield from _equal("helmet_calibrated", EQUAL_TASKS, columns, "")
    yield from _equal(
        "helmet_calibrated_32k", EQUAL_TASKS_32K, ("Recall", "RAG", "ICL", "all"), ", {datasets}"
    )
    yield from _equal("helmet_calibrated_recall", EQUAL_TASKS, ("Recall",), "")
    found = _column("helmet_calibrated", "all")
    tenth = {
        "MInference": MINFERENCE.format(0.021827),
        "CoSA": "cosa(topp=0.38125)",
        "XAttention": "xattention(tau=0.13375)",
        "FlexPrefill": "flexprefill_no_minimum(gamma=0.47406)",
    }
    yield ", ".join(f"{name} {found.loc[one, 'recovery']:.0f}" for name, one in tenth.items())


def _column(store: str, column: str) -> pd.DataFrame:
    frame = table(f"{QWEN}/{store}/tables/helmet_recovery.csv")
    return frame[frame["column"] == column].set_index("method")


def _equal(
    store: str, names: dict[str, tuple[str, str]], columns: tuple[str, ...], of: str
) -> Iterator[str]:
    every = {column: _column(store, column) for column in columns}
    for name, settings in names.items():
        if not any(one in every[columns[0]].index for one in settings):
            continue
        cells = [
            " / ".join(
                helmet_cell(frame.loc[one], of) if one in frame.index else "–" for one in settings
            )
            for frame in every.values()
        ]
        yield row(name, cells)


def of_stretched() -> Iterator[str]:
    """Beyond the model's positions, by YaRN."""
    frame = table(f"{QWEN}/helmet_yarn/tables/helmet_recovery.csv")
    for length in ("64K", "128K"):
        rows = frame[frame["length"] == length].set_index("column")
        names = "Recall", "RAG", "ICL", "all"
        yield row(length, [helmet_cell(rows.loc[name]) for name in names])
    recall, rag = dense_scores(f"{QWEN}/helmet_yarn", "Recall", "RAG")
    yield f"{recall} % in Recall and {rag} % in RAG at 64K"


def of_published() -> Iterator[str]:
    frame = table(f"{QWEN}/helmet/tables/helmet_recovery.csv")
    methods = ["rr(tau=0.95)", "rr(tau=0.9)", "xattention(tau=0.95)", "flexprefill(gamma=0.95)"]
    methods.append("minference_native(patterns=qwen25_coder_15b, ratio=1.0)")
    columns = [("8K", name) for name in ("Recall", "RAG", "ICL", "Re-rank", "LongQA-2", "all")]
    for length, column in [*columns, *(("32K", name) for name in ("Recall", "RAG", "ICL", "all"))]:
        rows = frame[(frame["length"] == length) & (frame["column"] == column)].set_index("method")
        cells = [helmet_cell(rows.loc[name]) if name in rows.index else "" for name in methods]
        text = " | ".join(cells).replace("|  |", "| |").replace("|  |", "| |").rstrip()
        yield f"| {text} |" if cells[-1] else f"| {text} "
