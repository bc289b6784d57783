"""Fabricated cells for the tests of the store and the report; no model has run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rr_bench.store.cells import CellWriter, Store
from rr_bench.store.records import SampleRecord

FULL = {"name": "full", "label": "full", "params": {}, "dense": True, "keep": {"sink": True}}
RR = {
    "name": "rr",
    "label": "rr(tau=0.95, stride=8)",
    "params": {"tau": 0.95, "stride": 8},
    "dense": False,
    "keep": {"sink": True, "diagonal": True, "last_row": True},
}


def record(
    uid: str, score: float | None, *, task: str = "json_kv", length: int = 4096, **changes: Any
) -> SampleRecord:
    """A sample whose prompt depends on uid, task and length alone, as it should."""
    fields: dict[str, Any] = {
        "uid": uid,
        "task": task,
        "length": length,
        "prompt_sha": hashlib.sha256(f"{task}/{length}/{uid}".encode()).hexdigest(),
        "input_tokens": length - 120,
        "budget": length - 100,
        "score": score,
        "golds": ["7"],
        "kernels": ["torch"],
        "density": 0.5,
        "prefill_s": 1.5,
        "error": "out of memory" if score is None else None,
    }
    return SampleRecord(**(fields | changes))


def settings(
    method: dict[str, Any] = FULL, *, task: str = "json_kv", length: int = 4096, **changes: Any
) -> dict[str, Any]:
    """What the key hashes, in the shape a run gives it."""
    return {
        "model": "0123abcd",
        "dtype": "float32",
        "method": {"target": method["name"], "params": method["params"], "keep": method["keep"]},
        "task": task,
        "length": length,
        "seed": 42,
        "sources": {"method/attention.py": "aa", f"method/{method['name']}.py": "bb"},
        **changes,
    }


def open_cell(
    out: Path,
    method: dict[str, Any] = FULL,
    *,
    task: str = "json_kv",
    length: int = 4096,
    model: str = "probe",
    time: str = "2026-01-01T00:00:00+00:00",
    **changes: Any,
) -> CellWriter:
    """A cell of the fabricated run, not entered yet; ``changes`` go into its settings."""
    everything = settings(method, task=task, length=length, **changes)
    info = {
        "model": {"name": model, "path": f"models/{model}", "dtype": "float32"},
        "method": method,
        "task": task,
        "task_version": 1,
        "length": length,
        "seed": everything["seed"],
        "source": everything.get("source", "generated"),
        "sources": everything["sources"],
    }
    env = {"device": "cpu", "time": time, "versions": {"torch": "2.13"}, "commit": "abc", "dirty": True}
    return Store(out).open_cell(everything, f"{method['label']}-{task}-{length}", info, env)


def write_cell(
    out: Path,
    method: dict[str, Any],
    scores: Sequence[float | None],
    *,
    density: float = 1.0,
    questions: int = 1,
    **where: Any,
) -> CellWriter:
    """A finished cell with these scores, uids "0", "1", ...; unfinished if a score is None."""
    cell = open_cell(out, method, **where)
    point = {key: where[key] for key in ("task", "length") if key in where}
    with cell:
        for uid, score in enumerate(scores):
            cell.append(record(str(uid), score, density=density, questions=questions, **point))
        if None not in scores:
            cell.finish(len(scores))
    return cell
