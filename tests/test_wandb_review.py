"""The W&B review report: its spec fits the package's schema, and shows only what was logged."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import rr_bench.report.__main__ as command
from rr_bench.report import write_report
from rr_bench.report.wandb_log import log_report
from tests.runs import errors
from tests.wandb_files import offline_runs


@pytest.fixture
def spec(wandb_store: Path, wandb_package: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The spec that the command writes for a logged store."""
    pytest.importorskip("wandb_workspaces")
    log_report(wandb_store, write_report(wandb_store))
    monkeypatch.setattr(sys, "argv", ["report", "wandb-review", str(wandb_store)])
    assert command.main() == 0
    found = json.loads((wandb_store / "wandb_review.json").read_text())
    assert isinstance(found, dict)
    return found


def test_the_spec_fits_the_schema_and_shows_what_was_logged(spec, wandb_store):
    from wandb_workspaces.reports.v2.internal import Spec

    read = Spec.model_validate(spec)
    kinds = [type(block).__name__ for block in read.blocks]
    assert not [kind for kind in kinds if kind.startswith("Unknown")] and "PanelGrid" in kinds
    titles = [block.children[0].text for block in read.blocks if type(block).__name__ == "Heading"]
    assert titles == ["Verdict", "Tables", "Figures", "Samples", "Environment"]

    (logged,) = offline_runs(wandb_store)
    known = set(logged.summary) | {name for step in logged.history for name in step}
    panels = [
        panel
        for block in spec["blocks"]
        if block["type"] == "panel-grid"
        for panel in block["metadata"]["panelBankSectionConfig"]["panels"]
    ]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    media = [panel["config"] for panel in panels if panel["viewType"] == "Media Browser"]
    assert lines and {name for config in lines for name in config["metrics"]} <= known
    assert {f"{name}.path" for config in media for name in config["mediaKeys"]} <= known
    assert any(config["mediaKeys"] for config in media)
    tables = re.findall(r'"(tables/\w+)"', json.dumps(spec))
    assert "tables/summary" in tables and {f"{name}.path" for name in tables} <= known
    runs = [
        run["filters"]["filters"][0]["value"]
        for block in spec["blocks"]
        if block["type"] == "panel-grid"
        for run in block["metadata"]["runSets"]
    ]
    assert set(runs) == {logged.run.run_id}


def test_a_store_that_was_not_logged_has_no_review(wandb_store, tmp_path, monkeypatch, capsys):
    for out, remedy in ((wandb_store, f"--wandb {wandb_store}"), (tmp_path, "wandb=offline")):
        monkeypatch.setattr(sys, "argv", ["report", "wandb-review", str(out)])
        assert command.main() == 1
        (line,) = errors(capsys)
        assert remedy in line
