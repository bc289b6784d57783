"""Kills at every call and of racing processes; ``python -m tests.killing`` does more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rr_bench import ROOT


def killed(folder: Path, how: str) -> int:
    """How many kills, or calls, the sweep survived."""
    command = [sys.executable, "-m", "tests.killing", str(folder), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_a_sweep_killed_at_any_call_needs_no_hand(tmp_path: Path) -> None:
    assert killed(tmp_path, "every/19") > 400


def test_two_racing_processes_with_random_kills_end_in_the_same_table(tmp_path: Path) -> None:
    assert killed(tmp_path, "20") >= 20
