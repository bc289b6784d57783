"""Tunes the kernels on the GPU at hand: ``python -m rr_bench.latency.tune --out FILE``.

Every variant is first compared with the reference on small ragged inputs and with the portable
kernel at the sizes that are timed. Variants run in a worker process: one that crashes or hangs costs
a line in the results, and a fresh worker goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from method.keep import RR_KEEP
from method.ops.block_sparse.reference import reference_attention
from method.ops.block_sparse.triton import block_sparse_triton
from method.ops.rr_scores.key_sums import pool_keys_triton
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.torch import select_blocks
from method.ops.top_p.triton import select_blocks_triton
from method.ops.triton_support import capability
from rr_bench.latency.cases import (
    Shape,
    attention_flops,
    dense_flops,
    list_bytes,
    random_inputs,
    random_mask,
)
from rr_bench.latency.parity import poison, relative_error
from rr_bench.latency.timing import measure, peak_extra_mib
from rr_bench.latency.variants import Attend, Select, attention_variants, selection_variants

Line = dict[str, Any]

TOLERANCE = 2e-2
"""Largest error of a bf16 output, relative to the reference's norm."""

PATIENCE_S = 60
"""A worker that is silent for longer is taken to hang."""


def small_check(attend: Attend, device: torch.device) -> float:
    """Largest error over ragged lengths, head sizes and densities, against the naive reference."""
    worst = 0.0
    for length, dim, density, seed in ((1000, 128, 0.4, 1), (129, 64, 0.7, 2), (2048, 96, 0.2, 3)):
        shape = Shape(length, 8, 2, dim)
        query, key, value = random_inputs(shape, device, seed)
        mask = random_mask(shape, density, device, seed)
        truth, _ = reference_attention(query, key, value, mask, scale=shape.scale)
        poison(device)
        worst = max(worst, relative_error(attend(query, key, value, mask, shape.scale), truth))
    return worst


class AttentionTuner:
    """Checks and times attention variants at every length and density."""

    def __init__(self, lengths: list[int], densities: tuple[float, ...] = (1.0, 0.5, 0.2)) -> None:
        self._device = torch.device("cuda")
        self._variants = attention_variants()
        self._cases = {}
        for length in lengths:
            shape = Shape(length)
            inputs = random_inputs(shape, self._device)
            for density in densities:
                mask = random_mask(shape, density, self._device)
                self._cases[length, density] = (shape, inputs, mask)
        self._truths: dict[tuple[int, float], torch.Tensor] = {}

    def lines(self, name: str) -> Iterator[Line]:
        """Results of one variant."""
        attend, dense = self._variants[name], name.startswith("dense")
        if not dense and name != "flex":
            error = small_check(attend, self._device)
            yield {"variant": name, "small_error": error}
            if not error < TOLERANCE:
                return
        for (length, density), (shape, inputs, mask) in self._cases.items():
            if dense and density < 1:
                continue
            call = partial(attend, *inputs, mask, shape.scale)
            poison(self._device)
            error = relative_error(call(), self._truth(length, density))
            line: Line = {"variant": name, "length": length, "density": density, "error": error}
            if error < TOLERANCE:
                timing = measure({name: call}, calls_wanted=10, budget_ms=700)[name]
                flops = dense_flops(shape) if dense else attention_flops(mask, shape.dim)
                line |= asdict(timing) | {"tflops": flops / timing.median_ms / 1e9}
            yield line

    def _truth(self, length: int, density: float) -> torch.Tensor:
        if (length, density) not in self._truths:
            shape, inputs, mask = self._cases[length, density]
            self._truths[length, density] = block_sparse_triton(*inputs, mask, scale=shape.scale)[0]
        return self._truths[length, density]


class SelectionTuner:
    """Checks and times selection variants at every length and stride."""

    def __init__(self, lengths: list[int], strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
        self._device = torch.device("cuda")
        self._variants = selection_variants()
        self._strides = strides
        self._inputs = {length: random_inputs(Shape(length), self._device) for length in lengths}

    def lines(self, name: str) -> Iterator[Line]:
        """Results of one variant; those with settings of their own run at S = 8 only."""
        select = self._variants[name]
        yield {"variant": name, "small_moved": self._small_check(select)}
        for length, (query, key, _) in self._inputs.items():
            shape = Shape(length)
            for stride in self._strides if ":" not in name else (8,):
                call = partial(select, query, key, shape.scale, stride)
                truth = self._variants["portable"](query, key, shape.scale, stride)
                extra = peak_extra_mib(call) - list_bytes(shape) / 2**20
                moved = float((call().counts - truth.counts).abs().sum() / truth.counts.sum())
                timing = measure({name: call}, budget_ms=200)[name]
                line: Line = {"variant": name, "length": length, "stride": stride, "moved": moved}
                yield line | asdict(timing) | {"extra_mib": round(extra, 1)}
            if name == "auto":
                yield from self._parts(query, key, shape)

    def _small_check(self, select: Select) -> float:
        """Share of the blocks of a ragged prompt that the PyTorch twins choose otherwise."""
        shape = Shape(3000, 8, 2)
        query, key, _ = random_inputs(shape, self._device, 5)
        query = query * 3
        scores = block_scores(query, key, scale=shape.scale, stride=8)
        truth = select_blocks(scores, 3000, 3000, tau=0.9, selector="released", keep=RR_KEEP)
        poison(self._device)
        return float((select(query, key, shape.scale, 8).to_map() ^ truth).float().mean())

    def _parts(self, query: torch.Tensor, key: torch.Tensor, shape: Shape) -> Iterator[Line]:
        """Where the time goes at S = 8: pooling, scores, and selection from given scores."""
        scores = block_scores_triton(query, key, scale=shape.scale, stride=8)

        length = shape.length
        parts: dict[str, Callable[[], object]] = {
            "part:pool": partial(pool_keys_triton, key, 8),
            "part:pool+scores": partial(block_scores_triton, query, key, scale=shape.scale, stride=8),
            "part:select": partial(
                select_blocks_triton, scores, length, length, tau=0.9, selector="released", keep=RR_KEEP
            ),
        }
        for call in parts.values():
            call()
        for name, timing in measure(parts, budget_ms=200).items():
            yield {"variant": name, "length": length, "stride": 8, **asdict(timing)}


def work(part: str, names: list[str], lengths: list[int]) -> None:
    """Worker: print a JSON line per result. A variant that raises costs a line.

    Raises:
        SystemExit: there is no GPU, or it is in no state to go on after an error.
    """
    if capability(torch.device("cuda" if torch.cuda.is_available() else "cpu")) == 0:
        raise SystemExit("tuning needs a CUDA device")
    tuner = AttentionTuner(lengths) if part == "attention" else SelectionTuner(lengths)
    for name in names:
        print(json.dumps({"begin": name}), flush=True)
        try:
            for line in tuner.lines(name):
                print(json.dumps(line), flush=True)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"[-400:]
            print(json.dumps({"variant": name, "failed": failed}), flush=True)
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                raise SystemExit("the device is in no state to go on") from error


def supervise(part: str, names: list[str], lengths: list[int], out: Path, seconds: float) -> None:
    """Run workers until every variant has its lines or the time is up."""
    deadline = time.monotonic() + seconds
    left = list(names)
    with out.open("a", encoding="utf-8") as file:

        def note(line: Line) -> None:
            file.write(json.dumps({"part": part, **line}) + "\n")
            file.flush()
            print(_text(line), flush=True)

        while left and time.monotonic() < deadline:
            command = [sys.executable, "-m", "rr_bench.latency.tune", "--worker", "--part", part]
            command += ["--lengths", *map(str, lengths), "--names", *left]
            # Its errors go to a file: nobody would read a pipe while the worker runs.
            with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
                worker = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1
                )
                running: str | None = None
                for line in _lines(worker, deadline):
                    if "begin" in line:
                        left = [name for name in left if name != running]
                        running = line["begin"]
                    else:
                        note(line)
                worker.kill()
                if worker.wait() == 0:
                    break
                note({"variant": running, "failed": _last_error(errors) or "hung or out of time"})
            if running is None:
                break
            left = [name for name in left if name != running]


def _lines(worker: subprocess.Popen[str], deadline: float) -> Iterator[Line]:
    """Lines of a worker until it ends, is silent for too long, or the time is up."""
    got: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            got.put(line)
        got.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = got.get(timeout=max(1.0, min(PATIENCE_S, deadline - time.monotonic())))
        except queue.Empty:
            return
        if line is None:
            worker.wait()
            return
        if line.startswith("{"):
            yield json.loads(line)


def _last_error(errors: IO[str]) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-400:]


def _text(line: Line) -> str:
    parts = [f"{line.get('variant')!s:34}"]
    for key, value in line.items():
        if key != "variant":
            parts.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return " ".join(parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("attention", "selection"), default="attention")
    parser.add_argument("--only", default="", help="regular expression on the variants' names")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768, 131072])
    parser.add_argument("--seconds", type=float, default=220, help="stop after this long")
    parser.add_argument("--out", type=Path, default=Path("tune.jsonl"))
    parser.add_argument("--list", action="store_true", help="print the variants' names and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--names", nargs="*", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.part, given.names, given.lengths)
        return
    names = list(attention_variants() if given.part == "attention" else selection_variants())
    names = [name for name in names if re.search(given.only, name)]
    if given.list:
        print("\n".join(names))
        return
    supervise(given.part, names, given.lengths, given.out, given.seconds)


if __name__ == "__main__":
    main()
