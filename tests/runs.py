"""What a whole run left behind, for the tests of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from rr_bench.config.schema import RunSettings

TIMES = ["prefill_s", "speedup"]


def summary(settings: RunSettings) -> pd.DataFrame:
    return pd.read_csv(Path(settings.out) / "summary.csv").drop(columns=TIMES)


def lines(settings: RunSettings) -> dict[str, int]:
    """Stored lines of samples by method."""
    found = {}
    for file in Path(settings.out).glob("cells/*/samples.jsonl"):
        info = json.loads((file.parent / "cell.json").read_text())
        found[info["method"]["name"]] = len(file.read_text().splitlines())
    return found


def reported(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Errors, and what the report had to leave out."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line.startswith(("error:", "problem:"))]


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
