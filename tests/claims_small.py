"""What the page of the 0.5B model says; see :mod:`tests.results_claims`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.claims_tables import LENGTHS, SMALL, K, cell, dense_scores, helmet_cell, row, shown, table

SMALL_ROWS = (
    "rr(tau=0.95)",
    "rr(tau=0.9)",
    "rr(tau=0.8)",
    "rr(tau=0.95, offset=0)",
    "rr(tau=0.95, offset=random)",
    "rr(tau=0.95, offset=mean)",
    "rr_plus(tau=0.95)",
    "rr_plus(tau=0.8)",
    "rr_plus(tau=0.5)",
    "rr_plus_fast(tau=0.8)",
    "xattention(tau=0.95)",
    "xattention(tau=0.9)",
    "cosa(topp=0.95)",
    "flashprefill(alpha=0.08)",
    "flexprefill(gamma=0.95)",
    "streaming(window=1920)",
    "oracle(tau=0.95)",
    "oracle_max(tau=0.95)",
    "oracle_max(tau=0.8)",
)


def of_published() -> Iterator[str]:
    store = f"{SMALL}/published"
    dense = [cell(store, "full", n)["score"] for n in LENGTHS]
    yield row("dense score, %", [f"{one:.1f}" for one in dense])
    for name in SMALL_ROWS:
        yield row(name, [shown(cell(store, name, n)) for n in LENGTHS])
    own = [cell(store, "rr(tau=0.95)", n) for n in LENGTHS]
    kept, blocks = ([one[name] for one in own] for name in ("recovery", "density"))
    ends = f"{min(kept):.0f} to {max(kept):.0f} % at {min(blocks):.0f} to {max(blocks):.0f} %"
    yield f"RRAttention at τ 0.95 keeps {ends} of the blocks"
    mean = cell(store, "rr(tau=0.95, offset=mean)", 16 * K)["recovery"]
    yield f"{mean:.0f} % at 16K where one query keeps {own[2]['recovery']:.0f}"
    plus = [cell(store, f"rr_plus(tau={tau})", 32 * K)["recovery"] for tau in (0.95, 0.8, 0.5)]
    yield f"at 32K by up to {max(plus) - 100:.0f} %. Dense attention answers {dense[-1]:.1f} % there"


def of_helmet() -> Iterator[str]:
    """The 0.5B model."""
    frame = table(f"{SMALL}/helmet/tables/helmet_recovery.csv").set_index(["method", "column"])
    for name in ("rr(tau=0.95)", "rr(tau=0.9)", "xattention(tau=0.95)", "flexprefill(gamma=0.95)"):
        cells = [
            helmet_cell(frame.loc[name, column], "")
            for column in ("Recall", "RAG", "ICL", "Re-rank", "all")
        ]
        yield row(name, cells)
    recall, *others = dense_scores(f"{SMALL}/helmet", "Recall", "RAG", "ICL", "Re-rank")
    yield f"{recall} % in Recall, {others[0]} in RAG, {others[1]} in ICL and {others[2]} in re-ranking"
