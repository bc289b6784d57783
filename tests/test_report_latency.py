"""Latency figures and page: nothing that failed is drawn, and no two devices meet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench.report import write_report
from rr_bench.report.latency import (
    methods_at,
    read_latency,
)
from rr_bench.report.latency_page import not_timed
from rr_bench.store.latency_table import TableError
from tests.fabricate import FULL, write_cell
from tests.fabricate_latency import DEVICE, MODEL, dense, row, rows, write_latency

ROOT = Path(__file__).resolve().parent.parent
STEMS = {f"latency_{name}-{MODEL}" for name in ("time", "speedup", "split", "rate")}
RR = "rr(tau=0.95, stride=8)"


def table(page: str, title: str) -> list[list[str]]:
    """Cells of the lines of one table of a Markdown page, its head first."""
    lines = page.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return [found[0], *found[2:]]


def test_page_and_figures_of_a_whole_run(tmp_path: Path) -> None:
    write_latency(tmp_path, list(rows()))
    report = write_report(tmp_path)
    assert report.problems == [] and report.frame.empty
    assert {path.stem for path in report.paths} == {"latency", "report", *STEMS}
    figures = [path for path in report.paths if path.parent.name == "figures"]
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"%PDF") for path in figures) and len(figures) == 8
    page = (tmp_path / "latency.md").read_text()
    assert f"- device: {DEVICE}" in page and "- versions: torch 2.11.0" in page
    assert "## Not timed" not in page and "Not timed" not in report.table
    head, *lines = table(page, f"selection + attention, {MODEL}")
    (line,) = [line for line in lines if line[1] == RR and "131072" in line]
    shown = dict(zip(head, line, strict=True))
    assert (shown["ms"], shown["p20–p80"], shown["density (%)"], shown["n"]) == (
        "94.0",
        "91.2–99.6",
        "35",
        "20",
    )
    assert shown["vs strongest dense"] == "2.66× cuDNN"
    assert "94.0 (2.66×)" in report.table
    assert "ceilings: matmul 788 TFLOP/s" in report.table and "rows: 301 done, 0 failed" in report.table
    assert table(page, "ceilings")[1][-2:] == ["788", "20"]
    # Made again, the files are the same.
    before = {path: path.read_bytes() for path in report.paths}
    assert {path: path.read_bytes() for path in write_report(tmp_path).paths} == before


@pytest.mark.usefixtures("undrawn")
def test_kernel_rates_stand_beside_dense_and_the_kernels_of_others(tmp_path: Path) -> None:
    case = {"inputs": "mask", "density": 0.5}
    write_latency(
        tmp_path,
        [
            row("attention", "full", "dense:cudnn", 8192, 1.0, inputs="mask", tflops=600),
            row("attention", "mask", "hopper", 8192, 0.6, tflops=570, **case),
            row("attention", "mask", "flex_attention", 8192, 0.9, tflops=380, **case),
            row("attention", "mask", "fa4", 8192, 0.7, tflops=543, **case),
            row("attention", "mask", "hopper", 4096, 0.3, tflops=500, **case),
        ],
    )
    write_report(tmp_path)
    head, *lines = table(
        (tmp_path / "latency.md").read_text(), f"attention kernel on masks of set density, {MODEL}"
    )
    named = [dict(zip(head, line, strict=True)) for line in lines]
    ratios = {
        (line["backend"], line["length"]): (
            line["of strongest dense's rate"],
            line["of flex_attention's rate"],
            line["of FA4 block-sparse's rate"],
        )
        for line in named
    }
    assert ratios["hopper", "8192"] == ("0.95 cuDNN", "1.50", "1.05")
    assert ratios["hopper", "4096"] == ("–", "–", "–")  # nothing to compare with
    assert ratios["dense:cudnn", "8192"] == ("1.00 cuDNN", "–", "–")


@pytest.mark.usefixtures("undrawn")
def test_what_failed_is_named_and_never_drawn(tmp_path: Path) -> None:
    fast = {"median_ms": 0.001, "tflops": 9999.0}
    failed = row(
        "both", "new", "hopper", 262144, 1.0, status="failed", reason="bad at /home/a/b.py", **{}
    )
    absent = row("prefill", RR, "hopper", 262144, 1.0, status="missing", density=None)
    write_latency(tmp_path, [*rows(), {**failed, **fast}, {**absent, **fast}])
    latency = read_latency(tmp_path)
    assert (
        latency.frame.loc[latency.frame["status"] != "done", ["median_ms", "speedup"]]
        .isna()
        .all(axis=None)
    )
    report = write_report(tmp_path)
    assert report.problems == []
    first, second = not_timed(latency.frame)
    assert first == f"both {MODEL} replay new hopper density 35 %, 256K: failed: bad at …/b.py"
    assert second == f"prefill {MODEL} replay {RR} hopper, 256K: missing: no reason given"
    page = (tmp_path / "latency.md").read_text()
    assert f"- {first}" in page and f"- {second}" in page
    assert first in report.table and "missing cases: 1," in report.table
    assert "262144" not in page.split("## Not timed")[0] and "9999" not in page
    assert "new" not in set(methods_at(latency.done, "both")["method"])


def test_a_second_device_or_driver_is_refused(tmp_path: Path) -> None:
    mixed = [row("both", RR, "hopper", 8192, 1.0), row("both", RR, "hopper", 4096, 1.0, device="Other")]
    write_latency(tmp_path, mixed)
    report = write_report(tmp_path)
    assert report.paths == [] and "2 devices (Imaginary GPU; Other)" in report.problems[0]
    assert not (tmp_path / "figures").exists()
    write_latency(tmp_path, mixed[:1], {"device": DEVICE, "driver": "1", "resumed": [{"driver": "2"}]})
    assert "2 drivers (1; 2)" in write_report(tmp_path).problems[0]


def test_absent_columns_and_cases_timed_twice_are_refused(tmp_path: Path) -> None:
    one = row("both", RR, "hopper", 8192, 1.0)
    write_latency(tmp_path, [one, one])
    with pytest.raises(TableError, match="line 3: the case of an earlier line"):
        read_latency(tmp_path)
    write_latency(
        tmp_path, [{name: value for name, value in one.items() if name not in ("n", "reason")}]
    )
    with pytest.raises(TableError, match="column n, reason is absent"):
        read_latency(tmp_path)
    (tmp_path / "latency.csv").write_text("")
    with pytest.raises(TableError, match=r"latency\.csv"):
        read_latency(tmp_path)


def test_the_fastest_is_bold_at_equal_density_where_percentiles_lie_apart(tmp_path: Path) -> None:
    few, other = {"n": 3}, {"density": 0.5}
    write_latency(
        tmp_path,
        [
            *(dense("both", length) for length in (4096, 8192, 16384, 32768)),
            *(row("both", RR, "hopper", n, 0.01, **more) for n, more in ((4096, {}), (8192, few))),
            *(row("both", RR, "hopper", n, 0.01) for n in (16384, 32768)),
            *(row("both", "streaming", "hopper", n, 0.1) for n in (4096, 8192)),
            row("both", "streaming", "hopper", 16384, 0.0104),
            row("both", "streaming", "hopper", 32768, 0.1, **other),
        ],
    )
    write_report(tmp_path)
    tables = [tmp_path / "tables" / f"latency_{name}-{MODEL}.md" for name in ("time", "speedup")]
    time, speedup = (path.read_text() for path in tables)
    assert [line.count("**0.01**") for line in time.splitlines() if RR in line] == [1]
    assert time.split("- **")[0].count("**") == speedup.split("- **")[0].count("**") == 2


def test_without_a_device_column_the_environment_names_it(tmp_path: Path) -> None:
    write_latency(tmp_path, [{**row("both", RR, "hopper", 8192, 1.0), "device": None}])
    assert read_latency(tmp_path).device == DEVICE
    (tmp_path / "env.json").unlink()
    assert read_latency(tmp_path).device == "unknown device"


def test_lengths_that_share_a_reason_share_a_line(tmp_path: Path) -> None:
    gone = {"status": "missing", "reason": "not installed", "inputs": "mask"}
    write_latency(
        tmp_path, [row("attention", "full", "dense:fa3", n, 1.0, **gone) for n in (4096, 8192)]
    )
    (line,) = not_timed(read_latency(tmp_path).frame)
    assert line == (
        f"attention {MODEL} mask full dense:fa3 density 100 %, 4K 8K: missing: not installed"
    )
    report = write_report(tmp_path)
    assert [path.name for path in report.paths] == ["latency.md", "report.html"]  # nothing to draw


def test_columns_of_older_tables_are_left_out(tmp_path: Path) -> None:
    one = row("both", RR, "hopper", 8192, 1.0) | {"vs_dense_cudnn": 9.0, "vs_dense_fa2": 9.0}
    write_latency(tmp_path, [one, dense("both", 8192)])
    done = read_latency(tmp_path).done.set_index("method")
    assert done.loc[RR, "speedup"] == pytest.approx(250 / 256) and "vs_dense_fa2" not in done


@pytest.mark.usefixtures("undrawn")
def test_cells_and_latency_share_a_folder(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    write_latency(tmp_path, [row("both", RR, "hopper", 8192, 1.0)])
    report = write_report(tmp_path)
    assert {path.name for path in report.paths} >= {"summary.md", "latency.md"}
    assert len(report.frame) == 1 and "one" not in report.problems
    assert "full" in report.table and "latency on" in report.table
    (tmp_path / "latency.csv").write_text("nonsense\n1\n")
    report = write_report(tmp_path)
    assert "is absent" in report.problems[0] and len(report.frame) == 1


def test_command_reports_a_latency_folder(tmp_path: Path) -> None:
    write_latency(tmp_path, [row("both", RR, "hopper", 8192, 1.0)])
    command = [sys.executable, "-m", "rr_bench.report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "latency.md" in done.stdout, done.stderr
    (tmp_path / "latency.csv").write_text("level\nboth\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is absent" in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_the_page_names_the_commits_that_rows_come_from(tmp_path: Path) -> None:
    groups = {"a": {"commit": "new", "dirty": False}, "b": {"commit": "newer", "dirty": True}}
    env = {"device": DEVICE, "driver": "1.2", "versions": {}, "commit": "old", "dirty": False}
    write_latency(tmp_path, [row("both", RR, "hopper", 8192, 1.0)], env | {"groups": groups})
    write_report(tmp_path)
    page = (tmp_path / "latency.md").read_text(encoding="utf-8")
    assert "- commit: new; newer with uncommitted changes\n" in page
    write_latency(
        tmp_path, [row("both", RR, "hopper", 8192, 1.0)], env | {"groups": {"a": {"complete": True}}}
    )
    write_report(tmp_path)
    assert "- commit: old\n" in (tmp_path / "latency.md").read_text(encoding="utf-8")
