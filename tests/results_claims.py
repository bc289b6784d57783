"""What README and the pages of results/ say of the records, with its numbers from the committed tables.

A claim is a text of a page with its numbers filled in from ``summary.csv``, ``latency.csv`` or a table.
``tests/test_results_pages.py`` wants each of them in its page, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

import pandas as pd

from rr_bench.report.latency import read_latency
from tests.source import ROOT

README = "README.md"
QWEN = "results/qwen25_coder_15b"
VIDEO = "results/video_probe"
H100 = "results/latency_h100"
H200 = "results/latency_h200"
K = 1024
LENGTHS = (4 * K, 8 * K, 16 * K, 32 * K)
LINES = {
    "rr, released": "rr",
    "rr, forced_first": "rr(selector=forced_first)",
    "rr, top_p": "rr(selector=top_p)",
    "minference, native": "minference_native(patterns=qwen25_coder_15b)",
    "flexprefill": "flexprefill_no_minimum",
    "oracle, mass": "oracle",
    "oracle, maximum": "oracle_max",
}
"""Names of a page's rows that are not those of the store ..."""
VIDEO_LINES = LINES | {
    "flexprefill": "flexprefill",
    "minference, native": "minference_native(vertical_size=30, slash_size=200)",
    "minference, projected": "minference(vertical_size=30, slash_size=200)",
    "minference, native, 30 columns and 200 diagonals": (
        "minference_native(vertical_size=30, slash_size=200, ratio=1.0)"
    ),
}
CONSTANTS = re.compile(
    r"Qwen2\.5-Coder-1\.5B-Instruct|two H100|One H100|an H200|\bτ 0\.\d+|\bLlama-3\.1-8B|Qwen2\.5-7B|"
    r"32 query and 8 KV heads of 128, bf16, batch 1|\b\d+K\b|FlashAttention-\d|stride 8|"
    r"density 0\.2 / 0\.35 / 0\.5|density (0\.35|of 35 %)|at 20, 35 and 50 %|at 35 and 50 %; at 20 %|"
    r"capability 9\.0|2\.4 times as fast at 128K|more than 99 % of the score"
)
"""Settings, names, and what papers claim: no results."""


@cache
def table(path: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / path)


def cell(store: str, name: str, length: int, task: str = "") -> pd.Series:
    """A row of a store's summary, by the method's series or by what it was calibrated to."""
    frame = table(f"{store}/summary.csv")
    frame = frame[(frame["length"] == length) & (frame["task"] == (task or frame["task"].iloc[0]))]
    (found,) = [row for _, row in frame.iterrows() if name in (row["series"], row["point"])]
    return found


def shown(row: pd.Series, density: bool = True) -> str:
    """Recovery, interval and density as the pages' tables print them."""
    value, low, high = (f"{row[name]:.0f}" for name in ("recovery", "recovery_lo", "recovery_hi"))
    ends = "" if value == low == high and "video" in row["task"] else f" ({low}–{high})"
    return f"{value}{ends}" + (f" @ {row['density']:.0f}" if density else "")


def at(level: int, line: str, length: int, store: str = f"{QWEN}/equal_density") -> pd.Series:
    return cell(store, f"{line} @ {level} %", length)


@cache
def latency(store: str) -> pd.DataFrame:
    rows = read_latency(ROOT / store).done
    return rows[rows["model"] == "llama31_8b"]


def timed(
    level: str, method: str, length: int = 128 * K, store: str = H100, **where: object
) -> pd.Series:
    """The one row of a level whose method begins so."""
    rows = latency(store)
    rows = rows[(rows["level"] == level) & (rows["length"] == length)]
    rows = rows[rows["method"].str.startswith(method)]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    (found,) = [row for _, row in rows.iterrows()]
    return found


RR = "rr(tau=0.95"
REPLAY = {"inputs": "replay", "density": 0.35}


def of_paper() -> Iterator[str]:
    own = [cell(f"{QWEN}/published", "rr(tau=0.95)", n) for n in LENGTHS[1:]]
    kept, blocks = (", ".join(f"{row[name]:.0f}" for row in own) for name in ("recovery", "density"))
    yield f"{kept} % at 8K, 16K, 32K with τ 0.95 ({blocks} % of the blocks)"
    levels, lines = (20, 35, 50), (LINES["flexprefill"], LINES["minference, native"])
    every = [[at(level, one, n)["recovery"] for level in levels for n in LENGTHS[1:]] for one in lines]
    first, second = (f"{min(found):.0f} to {max(found):.0f} %" for found in every)
    yield f"FlexPrefill keeps {first}, MInference at its own granularity {second}"
    frame = table(f"{QWEN}/helmet/tables/helmet_recovery.csv").set_index(["column", "method", "length"])
    short, long = (frame.loc["all", "rr(tau=0.95)", length] for length in ("8K", "32K"))
    first, second = (
        f"{one['recovery']:.0f} % ({one['recovery_lo']:.0f}–{one['recovery_hi']:.0f})"
        for one in (short, long)
    )
    blocks = f"with {short['density']:.0f} and {long['density']:.0f} % of the blocks"
    yield f"{first} at 8K, {second} at 32K, {blocks}"


def of_models() -> Iterator[str]:
    frame = table(f"{QWEN}/equal_density/summary.csv")
    (prompts,), most = set(frame["n"]), int((frame["questions"] / frame["n"]).max())
    yield f"up to {most} questions inside each prefill, {prompts} prompts a point"
    found = sorted({int(end) for end in frame["point"].str.extract(r" @ (\d+) %")[0].dropna()})
    yield f"to {found[0]}, {found[1]} and {found[2]} % of the causal blocks"
    tasks = "video_cards", "video_cards_prefill"
    behind, inside = (
        [cell(f"{VIDEO}/published", "rr(tau=0.95)", n, task)["recovery"] for n in LENGTHS]
        for task in tasks
    )
    assert min(behind) == max(behind)
    ends = f"{min(inside):.0f} to {max(inside):.0f} % of those inside it"
    yield f"RR keeps {behind[0]:.0f} % of questions behind the clip and {ends}"
    names = "rr(tau=0.8)", "rr(tau=0.8, selector=forced_first)"
    one, other = (cell(f"{QWEN}/selector", name, 32 * K)["recovery"] for name in names)
    yield f"that block is worth {one - other:.0f} points of recovery at 32K"
    probe = [
        cell("results/probe_selectors", name, 32 * K)["recovery"]
        for name in ("rr(tau=0.95)", "rr(tau=0.95, selector=forced_first)")
    ]
    real = cell(f"{QWEN}/published", "rr(tau=0.95)", 32 * K)["recovery"]
    few = f"{min(probe):.0f} to {max(probe):.0f} % of its `recall_prefill` at 32K"
    yield f"RRAttention keeps {few} where it keeps {real:.0f} % of"


def of_beyond() -> Iterator[str]:
    frame = table(f"{QWEN}/beyond/tables/equal_density.csv").set_index("method")
    for level in (10, 20):
        names = [f"at {level} %{end}" for end in ("", " lo", " hi")]
        value, low, high = frame.loc["rr_plus", names]
        others = " and ".join(f"{frame.loc[name, names[0]]:.0f}" for name in ("rr", "xattention"))
        yield f"{value:.0f} % ({low:.0f}–{high:.0f}) at {level} % of the blocks, where"
        yield f"{others}"
    yield f"{100 * timed('selection', 'rr_plus(')['of_dense']:.1f} % of FlashAttention-3's time"


def of_speed() -> Iterator[str]:
    dense = {name: timed("attention", "full", backend=f"dense:{name}") for name in ("fa3", "cudnn")}
    yield f"{dense['fa3']['tflops'] / dense['cudnn']['tflops']:.2f} times as fast as cuDNN's at 128K"
    both = [timed("both", RR, n, **REPLAY)["speedup"] for n in (8 * K, 32 * K, 128 * K)]
    yield f"are {both[0]:.1f} times as fast at 8K, {both[1]:.1f} at 32K and {both[2]:.1f} at 128K"
    rates = [
        [timed("attention", "mask", backend=end, density=part)["tflops"] for part in (0.2, 0.35, 0.5)]
        for end in ("hopper", "fa4", "flex_attention")
    ]
    own = " / ".join(f"{one / dense['fa3']['tflops']:.2f}" for one in rates[0])
    yield f"| kernel's rate over FlashAttention-3's dense, density 0.2 / 0.35 / 0.5 | {own} |"
    for name, other in zip(
        ("FlashAttention-4's block-sparse", "`flex_attention`'s"), rates[1:], strict=True
    ):
        ratios = " / ".join(f"{one / two:.2f}" for one, two in zip(rates[0], other, strict=True))
        yield f"{name}, the same masks | {ratios} |"
    yield f"| selection of `rr`, stride 8, of FlashAttention-3's time | {_selection(RR)} % |"
    names = "rr_plus(", "rr_plus_fast(", "xattention(", "flexprefill(", "minference("
    yield f"`minference` | {' / '.join(map(_selection, names))} % |"
    ms = timed("both", RR, **REPLAY)["median_ms"]
    ends = [
        timed("both", "full", backend=f"dense:{one}")["median_ms"] / ms
        for one in ("fa3", "cudnn", "fa2")
    ]
    yield f"/ FlashAttention-2 | {' / '.join(f'{one:.1f}' for one in ends)} |"
    slow = timed("both", RR, 8 * K, inputs="random")["speedup"]
    yield f"more than it saves: {slow:.2f} of the dense speed at 8K"
    host = timed("host", RR, 8 * K, inputs="random")["median_ms"]
    yield f"about {1000 * host:.0f} microseconds"
    whole = [timed("prefill", RR, n, H200, **REPLAY)["speedup"] for n in (4 * K, 128 * K)]
    yield f"(random weights, a random mask) {whole[0]:.2f} and {whole[1]:.2f} times"


def _selection(method: str) -> str:
    return f"{100 * timed('selection', method)['of_dense']:.1f}"


def of_h100() -> Iterator[str]:
    rows = read_latency(ROOT / H100).done
    (ceiling,) = rows.loc[rows["method"] == "matmul", "tflops"]
    products = 32 * 128 * (128 * K) ** 2 / 8 / 1e12  # 2 for half of all pairs of strides
    floor = products / ceiling / timed("attention", "full", backend="dense:fa3")["median_ms"] * 1e5
    own = f"| XAttention's at most 5 % | {_selection('xattention(')} % | out of reach at stride 8"
    yield f"{own}: its products, {products:.1f} TFLOP, take {floor:.1f} % at the ceiling's rate"
    yield f"at stride 16 they would take {floor / 2:.1f} %"


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
        best = [cell if name != "rr_plus" or cell == "–" else f"**{cell}**" for cell in cells]
        yield row(str(name), best)
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


def of_qwen_helmet() -> Iterator[str]:
    frame = table(f"{QWEN}/helmet/tables/helmet_recovery.csv")
    methods = ["rr(tau=0.95)", "rr(tau=0.9)", "xattention(tau=0.95)", "flexprefill(gamma=0.95)"]
    methods.append("minference_native(patterns=qwen25_coder_15b, ratio=1.0)")
    for length, column in [(n, c) for n in ("8K", "32K") for c in ("Recall", "RAG", "ICL", "all")]:
        rows = frame[(frame["length"] == length) & (frame["column"] == column)].set_index("method")
        cells = [_helmet(rows.loc[name]) if name in rows.index else "" for name in methods]
        text = " | ".join(cells).replace("|  |", "| |").replace("|  |", "| |").rstrip()
        yield f"| {text} |" if cells[-1] else f"| {text} "


def _helmet(one: pd.Series) -> str:
    ends = f"{one['recovery']:.0f} ({one['recovery_lo']:.0f}–{one['recovery_hi']:.0f})"
    return f"{ends} @ {one['density']:.0f}, {one['datasets']}, {one['n']}"


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


def _calibrated(line: str, length: int, level: int) -> str:
    """Recovery at a density of the videos' store, or a dash where the method cannot reach it."""
    frame = table(f"{VIDEO}/equal_density/summary.csv")
    there = (frame["point"] == f"{line} @ {level} %") & (frame["length"] == length)
    found = frame.loc[there, "recovery"].dropna()
    return f"{found.iloc[0]:.0f}" if len(found) else "–"


def row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


@cache
def page(name: str) -> str:
    """A page's text on one line."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


CLAIMS: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "the paper's claims": (README, of_paper),
    "models": (README, of_models),
    "speed": (README, of_speed),
    "beyond the paper": (README, of_beyond),
    "latency on an H100": (f"{H100}/README.md", of_h100),
    "a language model": (f"{QWEN}/README.md", of_qwen),
    "beyond": (f"{QWEN}/README.md", of_qwen_beyond),
    "HELMET": (f"{QWEN}/README.md", of_qwen_helmet),
    "video": (f"{VIDEO}/README.md", of_video),
}
