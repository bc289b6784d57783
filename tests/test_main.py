"""The command line from outside: sweeps, exit statuses, odd terminals and no home directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import rr_bench.run.run
from rr_bench.__main__ import main
from rr_bench.config.command_line import prepare
from rr_bench.config.registry import expand_task
from rr_bench.run.status import INTERRUPTED, STOPPED

ROOT = Path(__file__).parents[1]

# What a container is like whose user has no entry in the password file.
HOMELESS = """
import pwd, runpy, sys
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """``python -m rr_bench`` in this process; its exit status."""

    def status(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rr_bench", *arguments])
        monkeypatch.setattr(signal, "signal", lambda *ignored: None)
        monkeypatch.chdir(tmp_path)
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return status


def small(model: Path) -> list[str]:
    """A run of seconds."""
    return [f"model={model}", "methods=[full]", "tasks=[json_kv]", "lengths=[1024]", "samples=1"]


def test_a_sweep_runs_every_job(call, smallest, tmp_path):
    assert call("-m", *small(smallest), "seed=1,2", "out=swept/${seed}") == 0
    for seed in (1, 2):
        assert (tmp_path / f"swept/{seed}/summary.csv").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"swept"}


def test_a_sweep_ends_with_its_worst_status(call, monkeypatch):
    ran = []

    def verb(settings):
        ran.append(settings.seed)
        return {1: 0, 2: 130, 3: 1}[settings.seed]

    monkeypatch.setattr(rr_bench.run.run, "run", verb)
    assert call("-m", "seed=1,2,3") == 130
    assert ran == [1, 2, 3]


def test_settings_compose_and_leave_no_litter(call, capsys, tmp_path):
    assert call("--cfg", "job", "model=/x/y", "experiment=probe_gpu") == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["model"]["path"], found["lengths"][-1]) == ("/x/y", 131072)
    for name in ("helmet", "helmet_128k"):
        assert call("--cfg", "job", f"+experiment={name}") == 0
        found = yaml.safe_load(capsys.readouterr().out)
        assert found["samples"] == 600 and 131072 in found["lengths"]
        assert all(expand_task(task) for task in found["tasks"])
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_one_line(call, capsys):
    assert call("model=/no/such") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.path=/no/such" in line


def test_a_misspelt_setting_is_a_usage_error(call, capsys, tmp_path):
    for wrong in ("lenghts=[1]", "model.pth=x", "samples=many", "backend=fast"):
        assert call(wrong) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
    assert not any(tmp_path.iterdir())


def test_help_is_no_error(call, capsys):
    assert call("--help") == 0
    assert "Exit status" in capsys.readouterr().out


def test_a_model_without_out_gets_a_folder_of_its_own(call, smallest, tmp_path):
    assert call(*small(smallest)) == 0
    assert (tmp_path / "results/runs/llama/summary.csv").is_file()


def test_two_checkpoints_of_one_folder_name_are_kept_apart_by_name():
    assert prepare(["model=/a/llama"])[-1] == "model.name='llama'"
    assert prepare(["model=/a/llama", "model.name=other"])[-1] == "model.name=other"


def test_ascii_terminals_and_no_home(smallest, tmp_path):
    """An encoding without the table's dash, a locale of ASCII files, and no home directory."""
    environment = {
        **{"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        "PYTHONIOENCODING": "ascii",
    }

    def homeless(module: str, *arguments: str) -> str:
        command = [sys.executable, "-c", HOMELESS, module, *arguments]
        done = subprocess.run(
            command, capture_output=True, cwd=tmp_path, env=environment, encoding="ascii"
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert "?" in homeless("rr_bench", *small(smallest)), "the table has a dash for what is undefined"
    assert "wrote" in homeless("rr_bench.report", "results/runs/llama")


def test_a_model_below_a_missing_home_names_the_remedy():
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOMELESS, "rr_bench.download", "model", "smollm2_135m"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "RR_BENCH_MODELS" in done.stderr and "Traceback" not in done.stderr


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    status = Path(f"/proc/{process}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="asks /proc for a process's handlers"
)
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_sigterm_ends_the_start_with_its_line(delay: float, smallest: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rr_bench", *small(smallest)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        start = time.monotonic()
        while not catches_sigterm(process.pid):
            assert time.monotonic() - start < 20
            time.sleep(0.005)
        # Its imports take seconds; the handler stands before them.
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        time.sleep(delay)
        process.terminate()
        told, errors = process.communicate(timeout=60)
    assert (process.returncode, told.splitlines()[-1:]) == (INTERRUPTED, [STOPPED]), errors[-2000:]
    assert "Traceback" not in errors
