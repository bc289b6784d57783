"""Fabricated cells for the tests of the store and the report; no model has run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rr_bench.store.cells import CellWriter, Store
from rr_bench.store.reading import read_store
from rr_bench.store.records import SampleRecord
from rr_bench.store.seal import sealed
from rr_bench.store.stored import StoredCell

FULL = {"name": "full", "label": "full", "params": {}, "dense": True, "knob": None}
RR = {
    "name": "rr",
    "label": "rr(tau=0.95)",
    "params": {"tau": 0.95, "stride": 8},
    "dense": False,
    "knob": "tau",
}
KEEP = {"sink": True, "diagonal": True, "last_row": True}


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
        "device": "cpu",
        "method": {"name": method["name"], "params": method["params"], "files": {}},
        "keep": None if method["dense"] else KEEP,
        "backend": None if method["dense"] else "torch",
        "task": task,
        "length": length,
        "newline_stop": False,
        "seed": 42,
        "data": {"source": "generated", "files": {}},
        "versions": {"method": 1, "executor": 1, "model": 1, "task": 1, "prompts": 1, "scorer": 1},
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
    fingerprint: str = "0123abcd",
    source: str = "generated",
    replaced: Mapping[str, Any] = MappingProxyType({}),
    store: Store | None = None,
    **changes: Any,
) -> CellWriter:
    """A cell of the fabricated run, not entered yet; ``changes`` go into its settings.

    ``replaced`` are settings of any name, put over all others: of ``method``, ``model`` and the like
    what the key says and not what the arguments of the same name make of it.
    """
    everything = settings(method, task=task, length=length) | {
        "model": fingerprint,
        "data": {"source": source, "files": {}},
        **changes,
        **replaced,
    }
    info = {"model": {"name": model, "path": f"models/{model}"}, "method": method}
    env = {
        "device": "cpu",
        "time": time,
        "versions": {"torch": "2.13"},
        "commit": "abc",
        "dirty": True,
    }
    return (store or Store(out)).open_cell(everything, f"{method['label']}-{task}-{length}", info, env)


def change_environment(folder: Path, **changes: Any) -> None:
    """Give a stored cell another ``env.json``, with the checksum that fits."""
    path = folder / "env.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


def cells_of(out: str | Path) -> list[StoredCell]:
    """All cells of a store that has no problems."""
    cells, problems = read_store(out)
    assert not problems, problems
    return cells


def write_cell(
    out: Path,
    method: dict[str, Any],
    scores: Sequence[float | None],
    *,
    density: float = 1.0,
    questions: int = 1,
    **where: Any,
) -> CellWriter:
    """A cell with these scores, uids "0", "1", ...; a sample of score None failed."""
    cell = open_cell(out, method, **where)
    point = {key: where[key] for key in ("task", "length") if key in where}
    with cell:
        for uid, score in enumerate(scores):
            cell.append(record(str(uid), score, density=density, questions=questions, **point))
        cell.finish(len(scores))
    return cell
