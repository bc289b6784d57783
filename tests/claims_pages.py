"""What the pages of results/ say of the records; see :mod:`tests.results_claims`."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from rr_bench.report.latency import read_latency
from tests.claims_tables import (
    H100,
    LENGTHS,
    LINES,
    QWEN,
    RR,
    VIDEO,
    VIDEO_LINES,
    K,
    at,
    cell,
    row,
    selection,
    shown,
    table,
    timed,
)
from tests.source import ROOT


def of_kernels(rows: pd.DataFrame) -> Iterator[str]:
    """This kernel over FlashAttention-4's, by shape, length and density."""
    masks = rows[(rows["level"] == "attention") & (rows["method"] == "mask")]
    rates = masks.set_index(["model", "length", "density", "backend"])["tflops"]
    for name, model in (("Llama-3.1-8B", "llama31_8b"), ("Qwen2.5-7B", "qwen25_7b")):
        cells = [
            " / ".join(
                f"{rates[model, n, part, 'hopper'] / rates[model, n, part, 'fa4']:.2f}"
                for part in (0.5, 0.35, 0.2)
            )
            for n in (8 * K, 32 * K, 128 * K)
        ]
        yield row(name, cells)


def of_h100() -> Iterator[str]:
    rows = read_latency(ROOT / H100).done
    (ceiling,) = rows.loc[rows["method"] == "matmul", "tflops"]
    yield from of_kernels(rows)
    host = 1000 * rows.loc[(rows["level"] == "host") & (rows["method"] == RR + ")"), "median_ms"]
    yield f"| {host.min():.0f} to {host.max():.0f} µs at 4K, beside other work |"
    dense = timed("attention", "full", backend="dense:fa3")
    own, other = (
        [timed("attention", "mask", backend=name, density=part)["tflops"] for part in (0.5, 0.35, 0.2)]
        for name in ("hopper", "fa4")
    )
    yield f"| {' / '.join(f'{one / two:.2f}' for one, two in zip(own, other, strict=True))} times |"
    yield f"| 0.97 of FlashAttention-3's dense rate at density 0.5 | {own[0] / dense['tflops']:.2f} |"
    short, long = (100 * timed("selection", RR, n)["of_dense"] for n in (8 * K, 128 * K))
    yield f"| {long:.1f} %, {short:.1f} % |"
    products = 32 * 128 * (128 * K) ** 2 / 8 / 1e12  # 2 for half of all pairs of strides
    floor = products / ceiling / dense["median_ms"] * 1e5
    first = f"| XAttention's at most 5 % | {selection('xattention(')} % | out of reach at stride 8"
    yield f"{first}: its products, {products:.1f} TFLOP, take {floor:.1f} % at the ceiling's rate"
    yield f"at stride 16 they would take {floor / 2:.1f} %"
    yield f"| `rr_plus` at most 5 % | {selection('rr_plus(')} % |"
    fast, plain = (timed("selection", name)["median_ms"] for name in ("rr_plus_fast(", RR))
    yield f"| {fast / plain:.2f} times |"
    sparse = timed("attention", "mask", backend="hopper", density=0.2)["median_ms"]
    ends = [
        dense["median_ms"] / (sparse + timed("selection", name)["median_ms"])
        for name in (RR, "rr_plus_fast(", "rr_plus(")
    ]
    yield f"| {' / '.join(f'{one:.1f}' for one in ends)} times |"
    own = read_latency(ROOT / H100 / "qwen25_coder_15b").done.set_index(["level", "method", "length"])
    for name in ("rr(tau=0.95)", "rr(tau=0.9)", "rr_plus(tau=0.8)", "rr_plus_fast(tau=0.8)",
                 "xattention(tau=0.9)"):  # fmt: skip
        ends = [
            " / ".join(
                f"{own.loc[level, name, n]['speedup']:.2f}" if (level, name, n) in own.index else "–"
                for n in LENGTHS
            )
            for level in ("both", "prefill")
        ]
        yield row(name, ends)


def of_qwen() -> Iterator[str]:
    dense = [cell(f"{QWEN}/published", "full", n)["score"] for n in LENGTHS]
    yield row("dense score, %", [f"{one:.1f}" for one in dense])
    frame = table(f"{QWEN}/published/summary.csv")
    hidden = {"streaming(window=1920)", "full"}
    for name in frame.loc[~frame["series"].isin(hidden), "series"].unique():
        yield row(name, [shown(cell(f"{QWEN}/published", name, n)) for n in LENGTHS])
    for name in (*LINES, "xattention", "streaming"):
        line = LINES.get(name, name)
        cells = [
            " / ".join(shown(at(level, line, n), False) for level in (20, 35, 50)) for n in LENGTHS[1:]
        ]
        yield row(name, cells)


def of_qwen_beyond() -> Iterator[str]:
    frame = table(f"{QWEN}/beyond/tables/equal_density.csv").set_index("method")
    for name, ends in frame.iterrows():
        cells = []
        for level in (10, 20, 35):
            value, low, high = (ends[f"at {level} %{end}"] for end in ("", " lo", " hi"))
            cells.append("–" if pd.isna(value) else f"{value:.1f} ({low:.1f}–{high:.1f})")
        yield row(
            str(name),
            [
                _bold(cell, frame, str(name), level)
                for cell, level in zip(cells, (10, 20, 35), strict=True)
            ],
        )
    kept = {
        name: [at(level, name, 16 * K, f"{QWEN}/beyond")["recovery"] for level in (10, 20)]
        for name in ("rr_plus", "rr", "xattention")
    }
    own, rr, other = (f"{one[0]:.0f} and {one[1]:.0f}" for one in kept.values())
    yield f"it keeps {own} %, RRAttention {rr}, XAttention {other}"
    frame = table(f"{QWEN}/held_out/tables/headline.csv").set_index("method")
    found = [frame.loc[frame.index.str.startswith(name)].iloc[0]
             for name in ("rr_plus(", "rr_plus_fast(", "rr(", "xattention(")]  # fmt: skip
    own, fast, rr, other = (
        f"{one['recovery']:.0f}# ({one['recovery_lo']:.0f}–{one['recovery_hi']:.0f})" for one in found
    )
    text = f"`rr_plus` {own}, `rr_plus_fast` {fast}, `rr` {rr}, XAttention {other}"
    yield text.replace("#", " %", 1).replace("#", "")


def _bold(cell: str, frame: pd.DataFrame, name: str, level: int) -> str:
    """Marked where its interval lies above those of all others but the oracle."""
    others = frame.drop([name, "oracle_max"], errors="ignore")[f"at {level} % hi"].max()
    return (
        f"**{cell}**" if frame.loc[name, f"at {level} % lo"] > others and "oracle" not in name else cell
    )


def of_qwen_mass() -> Iterator[str]:
    frame = table(f"{QWEN}/diagnose/tables/held_mass.csv").set_index("method")
    names = (
        "streaming",
        "flexprefill_no_minimum",
        "cosa",
        "flashprefill",
        "rr_plus_fast",
        "xattention",
        "rr",
        "rr_plus",
        "oracle",
        "oracle_max",
    )
    for name in names:
        one = frame.loc[frame.index.str.startswith(f"{name}(")].iloc[0]
        store = "equal_density" if name in ("streaming", "oracle") else "beyond"
        kept = at(20, name, 16 * K, f"{QWEN}/{store}")["recovery"]
        yield row(name, [f"{one['mass']:.0f}", f"{one['worst']:.0f}", f"{kept:.0f}"])


def of_video() -> Iterator[str]:
    store = f"{VIDEO}/published"
    for name in ("rr(tau=0.95)", "rr(tau=0.9)", "xattention(tau=0.95)", "xattention(tau=0.9)",
                 "flexprefill(gamma=0.95)", "minference, native, 30 columns and 200 diagonals",
                 "streaming(window=3968)", "trianglemix(first_layer=2, window=512)",
                 "oracle(tau=0.9)", "oracle_max(tau=0.9)"):  # fmt: skip
        line = VIDEO_LINES.get(name, name)
        yield row(name, [shown(cell(store, line, n, "video_cards_prefill")) for n in LENGTHS])
    for name in ("xattention(tau=0.95)", "flexprefill(gamma=0.95)", "streaming(window=3968)"):
        yield row(name, [shown(cell(store, name, n, "video_cards")) for n in LENGTHS])
    for name in ("rr", "xattention", "flexprefill", "flexprefill_no_minimum", "minference, native",
                 "minference, projected", "streaming", "trianglemix(first_layer=1)", "oracle, mass",
                 "oracle, maximum"):  # fmt: skip
        line = VIDEO_LINES.get(name, name)
        yield row(
            name, [" / ".join(_calibrated(line, n, level) for level in (25, 50)) for n in LENGTHS]
        )

    yield row_of_rr_plus()


def row_of_rr_plus() -> str:
    store, cells = f"{VIDEO}/rr_plus", []
    for names in (
        ("rr(tau=0.95)", "rr(tau=0.9)"),
        ("rr_plus(tau=0.95)", "rr_plus(tau=0.8)", "rr_plus(tau=0.5)"),
        ("rr_plus_fast(tau=0.95)", "rr_plus_fast(tau=0.8)"),
        ("xattention(tau=0.95)",),
    ):
        cells.append(" / ".join(shown(cell(store, name, 4 * K)) for name in names))
    return f"| {' | '.join(cells)} |"


def _calibrated(line: str, length: int, level: int) -> str:
    """Recovery at a density of the videos' store, or a dash where the method cannot reach it."""
    frame = table(f"{VIDEO}/equal_density/summary.csv")
    there = (frame["point"] == f"{line} @ {level} %") & (frame["length"] == length)
    found = frame.loc[there, "recovery"].dropna()
    return f"{found.iloc[0]:.0f}" if len(found) else "–"
