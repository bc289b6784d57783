"""Damage a store or a configuration at random, and see that nothing is changed without a word.

``python -m tests.mutations store <n>`` and ``python -m tests.mutations config <n>`` print what became
of ``n`` damaged copies; the seed is fixed.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench.config.errors import ConfigError
from rr_bench.config.reading import read_settings
from rr_bench.config.registry import expand_method, expand_task
from rr_bench.report.tables import summarise
from rr_bench.store.jsonl import StoreError, write_json
from rr_bench.store.reading import read_store
from tests.configured import DEFAULTS
from tests.fabricate import FULL, RR, record, write_cell

SLOWEST_S = 20.0
ODD: list[Any] = [
    None, True, -1, 0, 1e308, 10**30, float("nan"), float("inf"), "", "x", "\ud800", "\x00", [], {},
    [[]], {"_target_": "os.system"}, [{"a": 1}], "9" * 5000, -0.0, "../..", "${oc.env:HOME}", "${out}",
    "???",
]  # fmt: skip
"""Values that a setting or field hardly ever means."""
INSERTED = (b"\x00", b"\xff", b"\n", b"{", b"[" * 3000, b"9" * 5000, b"NaN")


def make_store(out: Path) -> None:
    """Four cells with every kind of file."""
    for task in ("json_kv", "niah_mv"):
        for method in (FULL, RR):
            cell = write_cell(out, method, [1.0, 0.5, 0.25], task=task, density=0.5)
            with cell:
                cell.note_data({"chat": False, "dropped": {}, "gold_lost": {"count": 0, "uids": []}})
            write_json(cell.folder / "judged.json", {"f1": {"value": 0.5, "uids": ["0"]}})
    cell = write_cell(out, RR, [1.0], task="niah_mk_2")
    cell.fail("cell", "the model did not load")
    with cell:
        cell.append(record("1", None, task="niah_mk_2"))


def damage(out: Path, rng: random.Random) -> Path:
    """Change one file of one cell; which."""
    path = rng.choice(sorted(path for path in out.rglob("*") if path.is_file()))
    data = bytearray(path.read_bytes())
    kind = rng.choice(("byte", "bytes", "cut", "insert", "swap", "value", "lines", "copy"))
    place = rng.randrange(len(data)) if data else 0
    if kind == "byte" and data:
        data[place] = rng.randrange(256)
    elif kind == "bytes":
        data[place : place + 8] = rng.randbytes(rng.randrange(16))
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = rng.choice(
            (b"\x00", b"\xff", b"\n", b"{", b"[" * 3000, b"9" * 5000, b"NaN")
        )
    elif kind == "swap" and data:
        other = rng.randrange(len(data))
        data[place], data[other] = data[other], data[place]
    elif kind == "value":
        data = bytearray(_other_value(bytes(data), rng))
    elif kind == "lines":
        lines = bytes(data).splitlines(keepends=True)
        rng.shuffle(lines)
        data = bytearray(b"".join(lines[: rng.randrange(len(lines) + 1)] + lines[:1]))
    elif kind == "copy":
        data = bytearray(rng.choice(sorted(out.rglob(path.name))).read_bytes())
    path.write_bytes(data)
    return path


def _other_value(data: bytes, rng: random.Random) -> bytes:
    """The same JSON with one value changed, on one of its lines or as a whole."""
    lines = data.split(b"\n") if data.count(b'"check"') > 1 else [data]
    place = rng.randrange(len(lines))
    try:
        content = json.loads(lines[place])
        lines[place] = json.dumps(mutated(content, rng)).encode()
    except ValueError:
        pass
    return b"\n".join(lines)


def mutated(content: Any, rng: random.Random) -> Any:
    """A copy of nested values with one of them replaced, removed or added."""
    if not isinstance(content, dict | list) or not content or rng.random() < 0.2:
        return rng.choice(ODD)
    found = dict(content) if isinstance(content, dict) else list(content)
    keys = list(found) if isinstance(found, dict) else list(range(len(found)))
    key = rng.choice(keys)
    how = rng.random()
    if how < 0.1:
        del found[key]
    elif how < 0.2 and isinstance(found, dict):
        found[f"{key}x"] = found.pop(key)
    else:
        found[key] = mutated(found[key], rng)
    return found


def told(out: Path) -> tuple[pd.DataFrame, list[str]]:
    """What a report says of a store: rows by cell, and problems."""
    cells, problems = read_store(out)
    summary = summarise(cells, problems)
    frame = summary.frame[summary.frame["status"] != "missing"]
    return frame.set_index("cell").sort_index(), summary.problems


def check_store(out: Path, whole: pd.DataFrame, known: list[str], name: str) -> str:
    """How a damaged store differs from the whole one.

    Raises:
        AssertionError: a row changed, or vanished, and no problem says so.
    """
    rows, problems = told(out)
    if problems != known:
        # What is left must be as it was, but for the recovery of cells whose dense one is gone.
        shared = rows.index.intersection(whole.index)
        own = [column for column in ("score", "density", "n", "task", "method", "failed")]
        touched = {key for key in shared if key in name}
        left = [key for key in shared if key not in touched]
        pd.testing.assert_frame_equal(rows.loc[left, own], whole.loc[left, own], check_dtype=False)
        return "named"
    if rows.index.equals(whole.index):
        numbers = rows.drop(columns=["status", "verdict", "failed"])
        if numbers.astype(str).equals(whole[numbers.columns].astype(str)):
            return "same" if rows["status"].equals(whole["status"]) else "unfinished"
    raise AssertionError(f"{name}: changed without a word")


def stores(count: int, seed: int = 1) -> Counter[str]:
    """Damage that many copies of a store; how each came out."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        good, copy = Path(folder) / "good", Path(folder) / "copy"
        make_store(good)
        whole, known = told(good)
        for number in range(count):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(good, copy)
            path = damage(copy, rng)
            start = time.perf_counter()
            try:
                found[check_store(copy, whole, known, f"{path.parent.name}/{path.name}")] += 1
            except StoreError:
                found["named"] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, store {number}, {path}: {error!r}") from error
            assert time.perf_counter() - start < SLOWEST_S, f"store {number} took too long"
    return found


def configs(count: int, seed: int = 1) -> Counter[str]:
    """Change one or two values of the settings; each is either taken as it stands, or refused."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    start = DEFAULTS | {"model": DEFAULTS["model"] | {"path": "somewhere", "name": "some"}}
    for number in range(count):
        config = start
        for _ in range(rng.randint(1, 2)):
            config = mutated(config, rng)
        began = time.perf_counter()
        try:
            if not isinstance(config, dict):
                raise ConfigError("no mapping")
            settings = read_settings({str(key): value for key, value in config.items()})
            for method in settings.methods:
                expand_method(method)
            for task in settings.tasks:
                expand_task(task)
            found["taken"] += 1
        except ConfigError as error:
            assert str(error).count("\n") < 40
            found["refused"] += 1
        except Exception as error:
            other = {name: config[name] for name in config if config[name] != start.get(name)}
            raise AssertionError(f"seed {seed}, config {number}: {other}: {error!r}") from error
        assert time.perf_counter() - began < SLOWEST_S, f"config {number} took too long"
    return found


if __name__ == "__main__":
    run = {"store": stores, "config": configs}[sys.argv[1]]
    print(dict(run(int(sys.argv[2]), *map(int, sys.argv[3:]))))
