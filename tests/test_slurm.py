"""The SLURM scripts with a stand-in for sbatch that notes how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench import ROOT

SBATCH = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
print("7;cluster")
"""


@pytest.fixture
def submit(tmp_path):
    """Call submit.sh; gives the finished process and the calls of sbatch."""
    log, sbatch = tmp_path / "calls", tmp_path / "sbatch"
    sbatch.write_text(SBATCH.format(python=sys.executable, log=str(log)))
    sbatch.chmod(0o755)

    def call(*arguments: str, **environment: str):
        path = f"{tmp_path}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHON": sys.executable, **environment}
        command = ["bash", str(ROOT / "slurm/submit.sh"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
        calls = [json.loads(line) for line in log.open()] if log.exists() else []
        return done, calls

    return call


def test_an_array_of_slices_and_a_report_after_it(submit):
    settings = ["+experiment=helmet_recall", "model=/models/a b", "lengths=[2048,4096]"]
    done, (array, report) = submit("3", *settings, OPTIONS="--gres=none --mem=2G")
    assert done.returncode == 0, done.stderr
    assert array == [
        *("--parsable", "--array=1-3", "--export=ALL,SLICES=3", "--gres=none", "--mem=2G"),
        *("slurm/array.sbatch", *settings),
    ]
    wanted = ["--parsable", "--dependency=afterany:7", "slurm/report.sbatch"]
    assert report == [*wanted, "results/runs/helmet_recall_a_b"]


@pytest.mark.parametrize("arguments", [(), ("0",), ("x",), ("2", "lenghts=[2048]")])
def test_nothing_is_queued_for_a_wrong_call(submit, arguments):
    done, calls = submit(*arguments)
    assert done.returncode == 2 and calls == []
    assert "SLICES" in done.stderr or "did you mean 'lengths'" in done.stderr


def test_a_task_of_the_array_runs_its_slice(tmp_path):
    script = Path(ROOT / "slurm/array.sbatch").read_text()
    shown = tmp_path / "python"
    shown.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(shown), "SLURM_SUBMIT_DIR": str(tmp_path)}
    env |= {"SLURM_ARRAY_TASK_ID": "2", "SLICES": "3", "SLURM_JOB_ID": "1"}
    command = ["bash", "-s", "a=b c"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines() == ["-m", "rr_bench", "a=b c", "slice=2/3"]
