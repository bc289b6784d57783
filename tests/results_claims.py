"""What README and the pages of results/ say of the records, with its numbers from the committed tables.

A claim is a text of a page with its numbers filled in from ``summary.csv``, ``latency.csv`` or a table.
``tests/test_results_pages.py`` wants each of them in its page, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pandas as pd

from rr_bench.report.latency import read_latency
from tests import claims_ablations as ablations
from tests import claims_helmet as helmet
from tests import claims_pages as pages
from tests import claims_small as small
from tests import claims_tuning as tuning
from tests.claims_tables import (
    H100,
    LENGTHS,
    LINES,
    QWEN,
    README,
    REPLAY,
    RR,
    SMALL,
    VIDEO,
    K,
    at,
    cell,
    selection,
    table,
    timed,
)
from tests.source import ROOT

CONSTANTS = re.compile(
    r"Qwen2\.5-Coder-1\.5B-Instruct|H100s|One H100|an H200|\bτ 0\.\d+|\bLlama-3\.1-8B|Qwen2\.5-7B|"
    r"32 query and 8 KV heads of 128, bf16, batch 1|\b\d+K\b|FlashAttention-\d|stride [48]|"
    r"density 0\.2 / 0\.35 / 0\.5|density (0\.35|of 35 %)|at 20, 35 and 50 %|at 35 and 50 %; at 20 %|"
    r"capability 9\.0|2\.4 times as fast at 128K|more than 99 % of the score"
)
"""Settings, names, and what papers claim: no results."""


def of_paper() -> Iterator[str]:
    own = [cell(f"{QWEN}/published", "rr(tau=0.95)", n) for n in LENGTHS[1:]]
    kept, blocks = (", ".join(f"{row[name]:.0f}" for row in own) for name in ("recovery", "density"))
    yield f"{kept} % at 8K, 16K, 32K with τ 0.95 ({blocks} % of the blocks)"
    less = [cell(f"{SMALL}/published", "rr(tau=0.95)", n)["recovery"] for n in LENGTHS]
    yield f"not quite: {min(less):.0f} to {max(less):.0f} %"
    frame = table(f"{QWEN}/helmet_yarn/tables/helmet_recovery.csv").set_index(["column", "length"])
    far = frame.loc["all", "64K"]
    ends = f"{far['recovery']:.0f} % ({far['recovery_lo']:.0f}–{far['recovery_hi']:.0f})"
    yield f"{far['datasets']} tasks: {ends} with {far['density']:.0f} % of the blocks"
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
    yield f"all {short['datasets']} tasks that need no judge"
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
    other = frame.loc["rr(stride=4)"]
    yield f"as many products, keeps {other['at 10 %']:.0f} and {other['at 20 %']:.0f}"
    long = _tasks("rr(tau=0.79891)", "helmet_calibrated_32k")
    ends = f"{long['recovery']:.0f} % ({long['recovery_lo']:.0f}–{long['recovery_hi']:.0f})"
    yield f"`rr` keeps {ends} at {long['density']:.0f} % of the blocks"
    few, more = (
        [_tasks(name) for name in names]
        for names in (
            ("rr_plus(tau=0.65969)", "rr(tau=0.56688)", "xattention(tau=0.62875)"),
            ("rr_plus(tau=0.86852)", "rr(tau=0.82984)", "xattention(tau=0.84531)"),
        )
    )
    low, high = (f"{few[0][end]:.0f}" for end in ("recovery_lo", "recovery_hi"))
    values = [f"{one['recovery']:.0f}" for one in few]
    blocks = f"at {few[0]['density']:.0f} % of the blocks"
    yield f"{blocks} {values[0]} % ({low}–{high}), `rr` {values[1]} and"
    yield f"XAttention {values[2]}; at {more[0]['density']:.0f} % {more[0]['recovery']:.0f} % ("
    low, high = (f"{more[0][end]:.0f}" for end in ("recovery_lo", "recovery_hi"))
    yield f"{low}–{high}), {more[1]['recovery']:.0f} and {more[2]['recovery']:.0f}"


def _tasks(method: str, store: str = "helmet_calibrated") -> pd.Series:
    """A method's mean over HELMET's tasks at equal density."""
    frame = table(f"{QWEN}/{store}/tables/helmet_recovery.csv")
    (found,) = [one for _, one in frame.iterrows() if (one["column"], one["method"]) == ("all", method)]
    return found


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
    yield f"| selection of `rr`, stride 8, of FlashAttention-3's time | {selection(RR)} % |"
    names = "rr_plus(", "rr_plus_fast(", "xattention(", "flexprefill(", "minference("
    yield f"`minference` | {' / '.join(map(selection, names))} % |"
    ms = timed("both", RR, **REPLAY)["median_ms"]
    ends = [
        timed("both", "full", backend=f"dense:{one}")["median_ms"] / ms
        for one in ("fa3", "cudnn", "fa2")
    ]
    yield f"/ FlashAttention-2 | {' / '.join(f'{one:.1f}' for one in ends)} |"
    slow = timed("both", RR, 8 * K, inputs="random")["speedup"]
    yield f"more than it saves: {slow:.2f} of the dense speed at 8K"
    rows = read_latency(ROOT / H100).done
    host = 1000 * rows.loc[(rows["level"] == "host") & (rows["method"] == RR + ")"), "median_ms"]
    yield f"{host.min():.0f} to {host.max():.0f} microseconds"
    rows = read_latency(ROOT / H100 / "qwen25_coder_15b").done
    own = rows[(rows["level"] == "prefill") & (rows["length"] == 32 * K)].set_index("method")["speedup"]
    plain, plus = own[RR + ")"], own["rr_plus(tau=0.8)"]
    yield f"{plain:.2f} times as fast with `rr` and {plus:.2f} with `rr_plus`"
    layer = timed("layer", RR, **REPLAY)["speedup"]
    yield f"a decoder layer of Llama-3.1-8B is {layer:.1f} times as fast at 128K"
    whole = [timed("prefill", RR, n, **REPLAY)["speedup"] for n in (8 * K, 32 * K, 128 * K)]
    yield f"whole prefill {whole[0]:.2f}, {whole[1]:.2f} and {whole[2]:.2f} times at 8K, 32K and 128K"
    yield f"{both[2]:.1f} and {whole[2]:.2f} times the strongest dense attention there is"
    slow = timed("prefill", "full", backend="dense:cudnn")["median_ms"]
    yield f"{slow / timed('prefill', RR, **REPLAY)['median_ms']:.2f} over cuDNN's"


CLAIMS: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "the paper's claims": (README, of_paper),
    "models": (README, of_models),
    "speed": (README, of_speed),
    "beyond the paper": (README, of_beyond),
    "latency on an H100": (f"{H100}/README.md", pages.of_h100),
    "a language model": (f"{QWEN}/README.md", pages.of_qwen),
    "beyond": (f"{QWEN}/README.md", pages.of_qwen_beyond),
    "HELMET": (f"{QWEN}/README.md", helmet.of_published),
    "HELMET at equal density": (f"{QWEN}/README.md", helmet.of_equal_tasks),
    "HELMET by YaRN": (f"{QWEN}/README.md", helmet.of_stretched),
    "always-kept blocks": (f"{QWEN}/README.md", ablations.of_qwen_keep),
    "a smaller model": (f"{SMALL}/README.md", small.of_published),
    "a smaller model, HELMET": (f"{SMALL}/README.md", small.of_helmet),
    "ablations": (f"{QWEN}/README.md", ablations.of_qwen_ablations),
    "held mass": (f"{QWEN}/README.md", pages.of_qwen_mass),
    "variants of kernels": ("results/tuning_h100/README.md", tuning.of_selections),
    "video": (f"{VIDEO}/README.md", pages.of_video),
}
