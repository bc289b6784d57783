"""What rows of one table were measured on: what differs is said once, with how many cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rr_bench.report import write_report
from tests.fabricate import FULL, RR, change_environment, write_cell

pytestmark = pytest.mark.usefixtures("undrawn")


def store(out: Path, **changes: Any) -> None:
    """Three cells of equal environment but for changes of the last."""
    for method, length in ((FULL, 4096), (FULL, 8192), (RR, 4096)):
        cell = write_cell(out, method, [1.0], length=length)
        if method is RR:
            change_environment(cell.folder, **changes)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"device": "NVIDIA H100"}, "cells differ in device: cpu (2 cells), NVIDIA H100 (1 cell)"),
        ({"versions": {"torch": "2.14"}}, "cells differ in torch: 2.13 (2 cells), 2.14 (1 cell)"),
        (
            {"commit": "def"},
            "cells differ in commit: abc with uncommitted changes (2 cells), "
            "def with uncommitted changes (1 cell)",
        ),
        (
            {"resumed": [{"device": "NVIDIA H100"}]},
            "cells differ in device: cpu (3 cells), NVIDIA H100 (1 cell)",
        ),
    ],
)
def test_what_differs_is_said_on_the_page_and_in_the_terminal(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    store(tmp_path, **changes)
    report = write_report(tmp_path)
    assert f"note: {line}\n" in report.table and report.table.count("cells differ") == 1
    assert f"- {line}\n" in (tmp_path / "summary.md").read_text()


def test_sources_that_differ_are_said_and_equal_cells_say_nothing(tmp_path: Path) -> None:
    store(tmp_path / "same", time="2030-01-01T00:00:00+00:00")
    assert "cells differ" not in write_report(tmp_path / "same").table
    for method, hashed in ((FULL, "aaaa"), (RR, "bbbb")):
        change_environment(write_cell(tmp_path / "other", method, [1.0]).folder, sources=hashed)
    table = write_report(tmp_path / "other").table
    assert "cells differ in sources: aaaa (1 cell), bbbb (1 cell)" in table


def test_the_page_says_how_a_model_was_spread(tmp_path: Path) -> None:
    store(tmp_path, layers={"cuda:0": "0-15", "cuda:1": "16-31"})
    write_report(tmp_path)
    assert "- layers: cuda:0 0-15, cuda:1 16-31\n" in (tmp_path / "summary.md").read_text()
