"""A fabricated latency experiment: times of a made-up device, the shapes of real ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """A finished case."""
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
        "error": 0.001,
        "status": "done",
        "reason": "",
        "device": DEVICE,
        "gb_s": None,
        **changes,
    }


def dense(level: str, length: int, backend: str = "cudnn", **changes: Any) -> dict[str, Any]:
    """Dense attention, which takes 250 ms at 128K by cuDNN and 430 ms by FlashAttention-2."""
    ms = 250 * (length / 131072) ** 2 * {"layer": 1.5, "prefill": 60}.get(level, 1)
    ms *= {"cudnn": 1, "fa2": 1.72}[backend]
    inputs = "mask" if level == "attention" else "random"
    return row(level, "full", f"dense:{backend}", length, ms, **{"inputs": inputs, **changes})


def rows() -> Iterator[dict[str, Any]]:
    """Every level of an experiment, the kernels included."""
    yield row("ceiling", "matmul", "cublas", 8192, 1.0, tflops=788.0, model="", inputs="")
    for length in LENGTHS:
        for level in ("attention", "both", "layer", "prefill"):
            yield dense(level, length, tflops=590)
            yield dense(level, length, "fa2", tflops=590 / 1.72)
        whole = dense("attention", length)["median_ms"]
        for kernel, rate in (("hopper", 600), ("triton", 440), ("flex_attention", 390)):
            for density in (1.0, 0.5, 0.35, 0.2):
                reached = rate * (1 - 0.3 * 4096 / length / density**0.5)
                ms = whole * density * 590 / reached
                case = {"inputs": "mask", "density": density, "tflops": reached}
                yield row("attention", "mask", kernel, length, ms, **case)
        for method, share in METHODS.items():
            if method == "full":
                continue
            chosen, computed = share * whole + 0.05, 0.36 * whole + 0.02
            yield row("selection", method, "once", length, chosen, inputs="random", density=None)
            yield row("attention", method, "hopper", length, computed)
            yield row("both", method, "hopper", length, 1.01 * (chosen + computed))
            yield row("layer", method, "hopper", length, chosen + computed + 0.5 * whole)
            yield row("prefill", method, "hopper", length, 40 * (chosen + computed) + 20 * whole)


def write_latency(folder: Path, table: list[dict[str, Any]], env: dict[str, Any] | None = None) -> None:
    """``latency.csv`` and ``env.json`` of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "latency.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    record = (
        {"device": DEVICE, "driver": "1.2", "versions": {"torch": "2.11.0"}} if env is None else env
    )
    (folder / "env.json").write_text(json.dumps(record))
