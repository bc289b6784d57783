"""The verdict by hand: what may be claimed of how many samples, and where it stands."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from rr_bench.report import write_report
from rr_bench.report.recovery import Recovery
from rr_bench.report.render import WIDTH
from rr_bench.report.verdict import FEWEST, MARGIN, enough, needed, outcome, standings, verdict
from tests.fabricate import FULL, RR, write_cell

pytestmark = pytest.mark.usefixtures("undrawn")


def of(value: float, lo: float, hi: float, n: int) -> Recovery:
    return Recovery(n, value, 100.0, value, lo, hi)


ENOUGH = enough(MARGIN)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (of(100, 100, 100, 5), "undecided"),  # five equal samples tell of 3 / 5 of all at most
        (of(100, 100, 100, ENOUGH - 1), "undecided"),
        (of(100, 100, 100, ENOUGH), "kept"),
        (of(99, 98, 100, 400), "kept"),
        (of(99, 97.9, 100, 400), "undecided"),  # wider than the margin
        (of(99, 98.2, 99.8, 400), "kept"),  # less than dense, and by less than matters
        (of(60, 20, 100, 5), "undecided"),
        (of(60, 50, 70, FEWEST - 1), "undecided"),
        (of(60, 50, 70, FEWEST), "lost"),
        (of(97, 95, 99.9, 300), "lost"),
        (of(97, 94, 100, 300), "undecided"),
        (of(120, 110, 130, 50), "gained"),
        (of(50, math.nan, math.nan, 1), "undecided"),
        (of(math.nan, math.nan, math.nan, 9), ""),
    ],
)
def test_outcomes(found: Recovery, said: str) -> None:
    assert outcome(found) == said


def test_samples_that_would_tell() -> None:
    assert (MARGIN, ENOUGH) == (2.0, 150)  # 3 / 150 is 2 %
    assert needed(of(100, 100, 100, 5)) == 150
    # Half of the interval is 6, and 2 would do: nine times the samples.
    assert needed(of(100, 94, 106, 100)) == 900
    # 1 point off: an interval of 1 is needed, a sixth.
    assert needed(of(99, 93, 105, 100)) == 3600
    # 80 with 20 on each side touches 100 already.
    assert needed(of(80, 60, 100, 40)) == 41
    assert needed(of(80, 40, 120, 40)) == 160
    assert needed(of(50, math.nan, math.nan, 1)) == FEWEST


def rows(*cells: tuple[str, str, float], setup: str = "probe") -> pd.DataFrame:
    """Rows of (method, cell, density); the dense baseline is "full"."""
    names = ["series", "cell", "density"]
    frame = pd.DataFrame(cells, columns=names)
    dense = frame["series"] == "full"
    return frame.assign(setup=setup, dense=dense, point=frame["series"], line="", speedup=2.0)


def test_three_lines_with_methods_cells_and_density() -> None:
    same, half = [(1.0, 1.0)] * 100, [(0.5, 1.0)] * 100
    frame = rows(
        ("full", "f1", 100.0), ("full", "f2", 100.0),
        ("a", "a1", 40.0), ("a", "a2", 60.0),
        ("b", "b1", 20.0), ("b", "b2", 30.0),
        ("c", "c1", 10.0), ("c", None, math.nan),
    )  # fmt: skip
    pairs = {"a1": same, "a2": same, "b1": half, "b2": half, "c1": same[:20]}
    found = standings(frame, pairs)
    assert [one.series for one in found] == ["c", "b", "a"]  # by density
    kept, lost, undecided = verdict(found)
    assert kept.startswith("keeps") and kept.endswith(
        ": a 100.0 % (100.0–100.0) at density 50.0 %, 2 cells"
    )
    assert lost.startswith("is below") and lost.endswith(
        ": b 50.0 % (50.0–50.0) at density 25.0 %, 2 cells"
    )
    assert undecided == (
        "undecided: c 100.0 % (100.0–100.0) at density 10.0 %, 1 of 2 cells of 20 samples where about "
        "150 would tell"
    )


def test_setups_are_judged_apart_and_long_lists_are_cut() -> None:
    many = [(f"m{i}", f"m{i}", 50.0) for i in range(5)]
    other = rows(("m0", "x", 50.0), setup="probe seed 7")
    pairs = {name: [(0.1 * i, 1.0)] * 10 for i, (name, _, _) in enumerate(many)} | {"x": [(1.0, 0.0)]}
    lines = verdict(standings(pd.concat([rows(*many), other]), pairs))
    assert (
        len(lines) == 6
        and [line.split(",")[0] for line in lines] == ["probe"] * 3 + ["probe seed 7"] * 3
    )
    assert "m4 40.0 %" in lines[1] and lines[1].endswith("; and 2 more")
    assert lines[5].endswith("undecided: m0: the dense score is 0")
    assert verdict([]) == ["no verdict: no sparse method has samples beside those of dense attention"]


def test_the_verdict_stands_first_and_the_table_fits_a_terminal(tmp_path: Path) -> None:
    label = f"rr(tau=0.9, {', '.join(f'setting{i}=value{i}' for i in range(9))})"
    long = {**RR, "label": label, "params": {"tau": 0.9}}
    for method, score in ((FULL, 1.0), (RR, 0.5), (long, 1.0)):
        write_cell(tmp_path, method, [score] * 8, density=1.0 if method is FULL else 0.25)
    report = write_report(tmp_path)
    lines = report.table.splitlines()
    assert lines[0].startswith("keeps") and max(map(len, lines)) <= WIDTH
    told = " ".join(report.table.split())
    assert "rr(tau=0.95) 50.0 % (50.0–50.0) at density 25.0 %, 1 cell undecided" in told
    page = (tmp_path / "summary.md").read_text().splitlines()
    assert page[2].startswith("- keeps") and page[4].startswith("- undecided")
    found = pd.read_csv(tmp_path / "summary.csv").set_index("method")["verdict"]
    assert found[RR["label"]] == "lost" and found[long["label"]] == "undecided"


def test_notes_come_before_the_verdict(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0, 1.0])
    write_cell(tmp_path, RR, [1.0, None, 1.0])
    lines = write_report(tmp_path).table.splitlines()
    assert lines[0] == "note: rr(tau=0.95)-json_kv-4096 failed: out of memory"
    assert any(line.startswith("keeps") for line in lines[1:3])


def test_of_many_cells_a_terminal_shows_the_methods(tmp_path: Path) -> None:
    for length in range(1024, 32 * 1024, 1024):
        write_cell(tmp_path, FULL, [1.0], length=length)
        write_cell(tmp_path, RR, [0.5], length=length)
    table = write_report(tmp_path).table
    assert "62 cells, each listed in summary.md" in table and table.count("rr(tau=0.95)") == 2
    assert {"31", "lost"} <= set(table.splitlines()[-1].split())
