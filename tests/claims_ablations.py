"""What the page of the 1.5B says of ablations; see :mod:`tests.results_claims`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.claims_tables import QWEN, K, cell, row, shown, table

ABLATIONS = {
    "rr": "rr(tau={}",
    **{f"rr, stride {n}": f"rr(tau={{}}, stride={n}" for n in (4, 16, 32)},
    **{
        f"rr, offset {n}": f"rr(tau={{}}, offset={n}"
        for n in ("0", "random", "reversed", "head_layer", "mean")
    },
    **{f"rr, {n}": f"rr(tau={{}}, selector={n}" for n in ("forced_first", "top_p")},
    "xattention": "xattention(tau={}",
    **{f"xattention, stride {n}": f"xattention(tau={{}}, stride={n}" for n in (4, 16, 32)},
    "xattention, forced_first": "xattention(tau={}, selector=forced_first",
    "rr_plus": "rr_plus(tau={}",
    **{f"rr_plus, keys {n}": f"rr_plus(tau={{}}, keys={n}" for n in ("largest", "mean", "spread")},
    "rr_plus, sum": "rr_plus(tau={}, over_samples=sum",
    "rr_plus_fast": "rr_plus_fast(tau={}",
    "oracle, top_p": "oracle(tau={}",
    "oracle, released": "oracle(tau={}, selector=released",
    "oracle_max, top_p": "oracle_max(tau={}",
    "oracle_max, released": "oracle_max(tau={}, selector=released",
}


def of_qwen_ablations() -> Iterator[str]:
    store = f"{QWEN}/ablations"
    for name, label in ABLATIONS.items():
        cells = [cell(store, f"{label.format(tau)})", 16 * K) for tau in (0.95, 0.8, 0.5)]
        cells.append(cell(f"{store}_8k", f"{label.format(0.8)})", 8 * K))
        yield row(name, [shown(one) for one in cells])
    own, other = (cell(f"{store}_8k", f"{name}(tau=0.5)", 8 * K) for name in ("rr_plus", "rr"))
    first, second = (
        f"{one['recovery']:.0f}# ({one['recovery_lo']:.0f}–{one['recovery_hi']:.0f})"
        for one in (own, other)
    )
    blocks = f"at {own['density']:.0f} % of the blocks"
    text = f"At 8K it keeps {first} {blocks}, RRAttention {second} at {other['density']:.0f}."
    yield text.replace("#", " %", 1).replace("#", "")


KEPT = {
    "rr": "rr(tau=0.8)",
    "xattention": "xattention(tau=0.8)",
    "cosa": "cosa(topp=0.8)",
    "rr_plus": "rr_plus(tau=0.8)",
    "rr_plus_fast": "rr_plus_fast(tau=0.8)",
    "oracle": "oracle(tau=0.8)",
    "oracle_max": "oracle_max(tau=0.8)",
    "flashprefill": "flashprefill(alpha=0.08)",
    "flexprefill": "flexprefill_no_minimum(gamma=0.95)",
    "minference, native": "minference_native(patterns=qwen25_coder_15b, ratio=1.0)",
    "trianglemix": "trianglemix(first_layer=20, window=512)",
    "streaming": "streaming(window=1920)",
}
"""Settings of the ablation of always-kept blocks."""


def of_qwen_keep() -> Iterator[str]:
    frame = table(f"{QWEN}/ablations_keep/summary.csv").set_index(["method", "keep"])
    frame = frame[["recovery", "density"]]
    rules = "none", "sink", "diagonal", "last_row", "sink+diagonal", "sink+diagonal+last_row"
    for name, method in KEPT.items():
        rows = [frame.loc[(method, rule)] for rule in rules]
        yield row(name, [f"{one['recovery']:.0f} @ {one['density']:.0f}" for one in rows])
    worth = {
        name: frame.loc[(KEPT[name], "sink")] - frame.loc[(KEPT[name], "none")]
        for name in ("rr", "xattention", "cosa", "rr_plus_fast", "rr_plus", "oracle", "oracle_max")
    }
    points = [f"{worth[name]['recovery']:.0f}" for name in ("rr", "xattention", "cosa", "rr_plus_fast")]
    yield (
        f"{points[0]} points to RRAttention, {points[1]} to XAttention, {points[2]} to CoSA and "
        f"{points[3]} to `rr_plus_fast`"
    )
    yield f"for at most {max(one['density'] for one in worth.values()):.1f} points of density"
    assert all(abs(worth[name]["recovery"]) < 2 for name in ("rr_plus", "oracle", "oracle_max"))
