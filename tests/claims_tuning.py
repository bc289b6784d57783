"""What results/tuning_h100 says of a whole selection; see :mod:`tests.results_claims`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from tests.claims_tables import K, row
from tests.source import ROOT

ROWS = {
    "before": "before",
    "before, prepared anew in every call": "before, prepared anew in every call",
    "**kept**: overlap, folded tiles, mean keys as one load": "kept",
    "without overlap (programmatic dependent launch)": "no overlap",
    "without folded tiles": "no folded tiles",
    "mean keys in a loop, as before": "mean keys in a loop",
    "queries loaded after the wait": "queries loaded after the wait",
    "one masked body for all chunks": "one masked body for all chunks",
    "top-τ by ranks, not by search (up to 64 blocks)": "top-τ by ranks",
    "top-τ, 32 scores a lane": "top-τ, 32 scores a lane",
}
"""The page's names of variants, and the records'."""
LENGTHS = tuple(n * K for n in (4, 8, 16, 32, 128))


def of_selections() -> Iterator[str]:
    lines = pd.read_json(ROOT / "results/tuning_h100/selection.jsonl", lines=True)
    found = lines.set_index(["part", "variant", "length"])["median_us"].sort_index()
    dense = found["dense", "fa3"]
    yield row("*FlashAttention-3, dense*", [_us(dense[n]) for n in LENGTHS])
    yield row("*an empty kernel*", [_us(found["selection", "one empty kernel", n]) for n in LENGTHS])
    for name, variant in ROWS.items():
        yield row(name, [_us(found["selection", variant, n]) for n in LENGTHS])
    own, warm = (found[part, "kept", 8 * K] for part in ("selection", "selection, warm cache"))
    shares = [100 * one / dense[8 * K] for one in (own, warm)]
    warmed = f"{warm:.0f} µs ({shares[1]:.1f} %) with a warm cache"
    yield f"the kept selection is {shares[0]:.1f} % of dense, {warmed}"
    anew, before = (found["selection", ROWS[name], 8 * K] for name in list(ROWS)[1::-1])
    yield f"{anew - before:.0f} of the {anew:.0f} µs"
    names = "pair", "base", "pair half", "half", "pair half turns", "pair half cubic 1/8"
    long = [f"{found['estimate', name, 128 * K]:,.0f}" for name in names]
    yield f"(`pair`): {long[0]} µs where the plain kernel takes {long[1]}"
    yield f"with fp16 sums {long[2]} where the kept one takes {long[3]}"
    yield f"on top {long[4]} and {long[5]}; without maxima, for the time alone"
    yield f"{found['estimate', 'diag pair half, no maxima', 128 * K]:,.0f}."
    parts = [found[part, "kept", 128 * K] for part in ("mean keys", "top-τ")]
    total = 100 * found["selection", "kept", 128 * K] / dense[128 * K]
    yield f"mean keys take {parts[0]:.0f} µs, top-τ {parts[1]:.0f} and the estimate"
    yield f"together {total:.1f} %"


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 200 else f"{value:.1f}"
