"""How long plan, second start and report take on a large fabricated store.

``python -m tests.bench_store <folder> [--cells 10000] [--samples 100]`` makes the store unless the
folder holds one, and prints seconds (in all / on a CPU) and the memory of the report as a row of a
Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rr_bench import ROOT
from rr_bench.plan.cells import Cell, Plan, make_plan
from rr_bench.run.console import Console
from rr_bench.run.run import find_pending
from rr_bench.store.cells import SHORT, Store, cell_key, folder_name
from rr_bench.store.records import CellInfo, SampleRecord, sample_line, to_json
from rr_bench.store.seal import sealed
from tests.configured import settings

LENGTHS = [4096, 8192, 16384, 32768, 65536]
TASKS = ["json_kv", "niah_mk_2", "niah_mk_3", "niah_mv", "recall_prefill"]
LAYERS = 28


def planned(cells: int, samples: int, out: str) -> Any:
    """Settings of a run of that many cells on the included model: two tasks or more, five lengths."""
    tasks = TASKS if cells >= 500 else TASKS[:2]
    methods = max(2, cells // (len(LENGTHS) * len(tasks)))
    taus = [round(0.5 + i / 2000, 4) for i in range(methods - 1)]
    return settings(
        model={"path": str(ROOT / "rr_bench/probe/model"), "allow_extrapolation": True},
        device="cpu",
        tasks=tasks,
        lengths=LENGTHS,
        methods=["full", {"name": "rr", "tau": taus}],
        samples=samples,
        out=out,
    )


def samples_of(cell: Cell, count: int) -> Iterator[SampleRecord]:
    """Samples as a run of a language model leaves them; the same for every call."""
    key = cell_key(cell.settings)
    rng = np.random.default_rng(int(key[:8], 16))
    hard = np.random.default_rng(cell.length).random(count)
    quality = 1.0 if cell.method.dense else 0.9 + 0.1 * rng.random()
    for index in range(count):
        by_layer = [float(one) for one in rng.random(LAYERS)]
        sha = f"{index:08x}{cell.length:08x}".ljust(64, "0")
        yield SampleRecord(
            uid=f"{cell.task.name}-{cell.length}-generated-{index:05d}",
            task=cell.task.name,
            length=cell.length,
            prompt_sha=sha,
            input_tokens=cell.length - 20,
            budget=cell.length,
            score=float(hard[index] < 0.8 * quality),
            output=f"the value of key {key[:8]} is {rng.integers(10**9)}",
            golds=[f"{key[:8]}-{index:05d}-4437-a045"],
            prompt_head="Find the value of a key in the JSON below. " * 6 if cell.method.dense else "",
            density=1.0 if cell.method.dense else float(np.mean(by_layer)),
            density_by_layer=by_layer,
            kernels=["torch"],
            prefill_s=1.0 + float(rng.random()),
            decode_s=float(rng.random()),
        )


def write(plan: Plan, count: int, out: Path) -> None:
    """A finished store of the plan's cells; nothing is synced, which is what makes a real one slow."""
    for cell in plan.cells:
        key = cell_key(cell.settings)
        folder = out / "cells" / folder_name(cell.label, key)
        folder.mkdir(parents=True)
        info = CellInfo(key=key, label=cell.label, settings=cell.settings, **cell.info)
        (folder / "cell.json").write_text(to_json(info, indent=1) + "\n")
        lines = (sample_line(record, key[:SHORT]) + "\n" for record in samples_of(cell, count))
        size = (folder / "samples.jsonl").write_text("".join(lines))
        done = {"n": count, "scored": count, "failed": 0, "bytes": size}
        (folder / "DONE").write_text(json.dumps(sealed(done)) + "\n")
        env = '{"device": "cpu", "time": "2026-01-01T00:00:00+00:00", "versions": {"torch": "2.13"}}\n'
        (folder / "env.json").write_text(env)


class _Silent(Console):
    def say(self, text: str) -> None:
        """Nothing is shown."""


REPORT = """
import sys
from rr_bench.report.__main__ import main
status = main()
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)
"""
"""A report that says last how many KiB it needed at most."""


def measure(run: Any, out: Path) -> dict[str, str]:
    """Seconds of plan, second start and report, in all and on a CPU, and the MiB of the report."""
    make_plan(replace(run, methods=["full"]))  # what is read once
    found: dict[str, str] = {}

    def timed(name: str, do: Callable[[], Any]) -> Any:
        clocks = time.perf_counter(), _cpu_seconds()
        made = do()
        both = time.perf_counter() - clocks[0], _cpu_seconds() - clocks[1]
        found[name] = " / ".join(f"{seconds:.1f}" for seconds in both)
        return made

    plan = timed("plan", lambda: make_plan(run))
    pending = timed("second start", lambda: find_pending(run, plan, Store(out), _Silent()))
    assert not pending, f"{len(pending)} cells are not done"
    report = [sys.executable, "-c", REPORT, str(out)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    done = timed("report", lambda: subprocess.run(report, check=True, **pipes))
    return found | {"MiB": f"{int(done.stderr.split()[-1]) / 2**10:.0f}"}


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Make the store, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100)
    given = parser.parse_args()
    run = planned(given.cells, given.samples, str(given.folder))
    if not given.folder.exists():
        write(make_plan(run), given.samples, given.folder)
    found = measure(run, given.folder)
    row = [f"{given.cells:,} × {given.samples}", *found.values()]
    print(f"| {' | '.join(['store', *found])} |\n| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
