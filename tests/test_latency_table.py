"""The latency table on disk: one environment, groups written whole, rows that are sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rr_bench import ROOT
from rr_bench.store.latency_table import COLUMNS, Row, Table, TableError, read_rows
from tests.fabricate_latency import row, write_latency

ENVIRONMENT = {"device": "cpu", "versions": {"torch": "1"}}
ROW = Row("both", "m", "random", "rr, sparse", "b", 4096, 0.35, 2.0, 1.5, 2.5, 3, status="done")


def test_a_table_keeps_to_one_environment(tmp_path: Path) -> None:
    Table(tmp_path, ENVIRONMENT).put("both m 4096", "key", [ROW], 1.0)
    again = Table(tmp_path, {**ENVIRONMENT, "time": "later"})
    assert again.rows == [ROW]
    assert again.done("both m 4096", "key") and not again.done("both m 4096", "other")
    with pytest.raises(TableError, match=r"torch 1, here it is 2: set out="):
        Table(tmp_path, {"device": "cpu", "versions": {"torch": "2"}})
    with pytest.raises(TableError, match="device cpu, here it is H"):
        Table(tmp_path, {**ENVIRONMENT, "device": "H"})
    (tmp_path / "env.json").unlink()
    with pytest.raises(TableError, match=r"no env\.json beside it"):
        Table(tmp_path, ENVIRONMENT)
    (tmp_path / "latency.csv").write_text("a,b\n")
    with pytest.raises(TableError, match=r"column level, model, .* is absent"):
        Table(tmp_path, ENVIRONMENT)


def test_a_group_replaces_its_rows_and_is_done_if_none_failed(tmp_path: Path) -> None:
    table = Table(tmp_path, ENVIRONMENT)
    failed = Row("both", "m", "random", "bad", "b", 4096, status="failed", reason="no, never")
    table.put("both m 4096", "key", [ROW, failed], 1.0)
    table.put(
        "ceiling", "key", [Row("ceiling", "", "random", "copy", "torch", None, status="done")], 1.0
    )
    assert not table.done("both m 4096", "key") and table.done("ceiling", "key")
    table.put("both m 4096", "key", [ROW], 1.0)
    again = Table(tmp_path, ENVIRONMENT)
    assert again.done("both m 4096", "key")
    assert [one.method for one in again.rows] == ["copy", "rr, sparse"]
    assert json.loads((tmp_path / "env.json").read_text())["groups"]["ceiling"]["complete"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"median_ms": None}, "line 2: done without a positive median_ms"),
        ({"status": "fine"}, "line 2: status is none of done, failed, missing"),
        ({"inputs": "probe"}, "line 2: inputs=probe is none of random, mask, captured, replay"),
        ({"length": None}, "line 2: done without a length"),
        ({"p20_ms": 5.0}, "line 2: p20_ms, median_ms and p80_ms are not in order"),
        ({"tflops": "many"}, "line 2: column tflops"),
        ({"median_ms": "nan"}, "line 2: done without a positive median_ms"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path, change, message) -> None:
    write_latency(tmp_path, [row("both", "rr", "hopper", 8192, 1.0) | change])
    with pytest.raises(TableError, match=message):
        read_rows(tmp_path / "latency.csv")


def test_the_committed_table_is_read_whole() -> None:
    path = ROOT / "results/latency_h200/latency.csv"
    rows = read_rows(path)
    assert len(rows) == len(path.read_text(encoding="utf-8").splitlines()) - 1
    assert {one.device for one in rows} == {"NVIDIA H200"} and len(COLUMNS) == 18
