"""A fabricated latency experiment: times of a made-up device, the shapes of real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

DEVICE = "Imaginary GPU"
MODEL = "llama31_8b"
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
METHODS = {
    "full": 0.0,
    "rr(tau=0.95, stride=8)": 0.012,
    "xattention(tau=0.9, stride=8)": 0.05,
    "flexprefill(gamma=0.95)": 0.025,
    "minference": 0.03,
    "trianglemix": 0.001,
    "streaming": 0.001,
}
"""Methods and their selection's share of dense time."""


def row(
    level: str, method: str, backend: str, length: int, ms: float, **changes: Any
) -> dict[str, Any]:
    """A finished case; dense attention takes 250 ms at 128K by cuDNN, 430 ms by FlashAttention-2."""
    dense = 250 * (length / 131072) ** 2 * {"layer": 1.5, "prefill": 60}.get(level, 1)
    return {
        "level": level,
        "model": MODEL,
        "inputs": "replay",
        "method": method,
        "backend": backend,
        "length": length,
        "density": 1.0 if method == "full" else 0.35,
        "median_ms": ms,
        "p20_ms": 0.97 * ms,
        "p80_ms": 1.06 * ms,
        "n": 20,
        "tflops": None,
        "peak_extra_mib": 12.0,
        "vs_dense_cudnn": dense / ms,
        "vs_dense_fa2": 1.72 * dense / ms,
        "error": 0.001,
        "status": "done",
        "reason": "",
        "device": DEVICE,
        **changes,
    }


def rows() -> Iterator[dict[str, Any]]:
    """Every level of an experiment, the kernels included."""
    yield row("ceiling", "matmul", "cublas", 8192, 1.0, tflops=788.0, model="", inputs="")
    for length in LENGTHS:
        dense = 250 * (length / 131072) ** 2
        full = {"cudnn": dense, "fa2": 1.72 * dense}
        for name, ms in full.items():
            yield row(
                "attention", "full", f"dense:{name}", length, ms, inputs="mask", tflops=590 * dense / ms
            )
        for kernel, rate in (("hopper", 600), ("triton", 440), ("flex_attention", 390)):
            for density in (1.0, 0.5, 0.35, 0.2):
                reached = rate * (1 - 0.3 * 4096 / length / density**0.5)
                ms = dense * density * 590 / reached
                case = {"inputs": "mask", "density": density, "tflops": reached}
                yield row("attention", "mask", kernel, length, ms, **case)
        for method, share in METHODS.items():
            if method == "full":
                continue
            chosen, computed = share * dense + 0.05, 0.36 * dense + 0.02
            none = {"density": None, "vs_dense_cudnn": None, "vs_dense_fa2": None}
            yield row("selection", method, "once", length, chosen, inputs="random", **none)
            yield row("attention", method, "hopper", length, computed)
            yield row("both", method, "hopper", length, 1.01 * (chosen + computed))
            yield row("layer", method, "hopper", length, chosen + computed + 0.5 * dense)
            yield row("prefill", method, "hopper", length, 40 * (chosen + computed) + 20 * dense)


def write_latency(folder: Path, table: list[dict[str, Any]], env: dict[str, Any] | None = None) -> None:
    """``latency.csv`` and ``env.json`` of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(folder / "latency.csv", index=False)
    record = (
        {"device": DEVICE, "driver": "1.2", "versions": {"torch": "2.11.0"}} if env is None else env
    )
    (folder / "env.json").write_text(json.dumps(record))
