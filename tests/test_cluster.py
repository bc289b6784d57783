"""``action=submit`` without a cluster: stand-ins for SLURM's commands answer as real ones do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rr_bench import SLURM
from rr_bench.cluster import jobs, slurm, submit
from rr_bench.cluster.checks import check_fits
from rr_bench.cluster.jobs import Submission, python, share, still_queued
from rr_bench.cluster.slurm import (
    ClusterError,
    Node,
    Partition,
    read_gpus,
    read_minutes,
    read_partition,
)
from rr_bench.config.cluster import ClusterSettings, check
from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import ModelSettings
from rr_bench.plan.cells import make_plan
from rr_bench.run.run import run
from rr_bench.store.cells import cell_key
from tests.runs import errors, lines
from tests.test_agenda import work

SINFO = """\
main*|up|1-00:00:00|mix|64|515000|gpu:h100:4(S:0-1)
main*|up|1-00:00:00|down*|96|900000|gpu:h100:8
slow|up|infinite|idle|8|64000|(null)
"""
MAIN = Partition("main", True, 1440, [Node(64, 515000, {"h100": 4})])


@pytest.fixture
def answers(monkeypatch):
    """What SLURM's commands print; ClusterErrors are raised."""
    said = {"sinfo": SINFO, "scontrol": "MaxArraySize            = 1001\n", "sbatch": "7;cluster\n"}

    def ask(*command):
        answer = said[command[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "ask", ask)
    return said


def test_a_partition_as_sinfo_tells_it(answers):
    assert read_partition(None) == read_partition("main") == MAIN
    assert read_partition("slow") == Partition("slow", True, None, [Node(8, 64000, {})])
    with pytest.raises(ClusterError, match=r"cluster.partition=slwo is not there: did you mean 'slow'"):
        read_partition("slwo")
    answers["sinfo"] = SINFO.replace("*|up", "|up")
    with pytest.raises(ClusterError, match="the cluster has no default"):
        read_partition(None)


def test_gpus_and_times_as_slurm_writes_them():
    assert read_gpus("gpu:2") == {"": 2} and read_gpus("(null)") == {}
    assert read_gpus("gpu:a100:2,gpu:h100:4(S:0,1),shard:8") == {"a100": 2, "h100": 4}
    times = {"2-00:00:00": 2880, "1:30:00": 90, "30:00": 30, "infinite": None}
    assert {text: read_minutes(text) for text in times} == times


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpus": 65}, "cluster.cpus=65: no node of partition main has more than 64"),
        ({"memory_gb": 600}, "cluster.memory_gb=600: no node"),
        ({"gpus": 5}, "cluster.gpus=5: no node of partition main has more than 4"),
        ({"gpu_type": "a100"}, "cluster.gpus=1: .* more than 0 of type a100"),
        ({"hours": 25}, "cluster.hours=25: partition main ends jobs after 24 hours"),
    ],
)
def test_what_no_node_has_is_named(changes, words):
    check_fits(ClusterSettings(), MAIN)
    with pytest.raises(ClusterError, match=words):
        check_fits(ClusterSettings(**changes), MAIN)


def test_no_single_node_has_it_all():
    apart = Partition("main", True, None, [Node(64, 1000, {}), Node(4, 900000, {"": 4})])
    with pytest.raises(ClusterError, match="at once"):
        check_fits(ClusterSettings(cpus=8, memory_gb=64, gpus=2), apart)
    with pytest.raises(ClusterError, match="no node of partition main is up"):
        check_fits(ClusterSettings(), Partition("main", True, None, []))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capability": None}, "capability is not set: cells are identified"),
        ({"cpus": 0}, "cpus=0: at least 1"),
        ({"at_once": 0}, "at_once=0"),
        ({"hours": 0}, "hours=0"),
        ({"hours": 0.1, "grace_s": 360}, "grace_s=360 leaves nothing"),
    ],
)
def test_settings_that_no_cluster_can_have(changes, words):
    check(ClusterSettings(capability="9.0"))
    check(ClusterSettings(gpus=0))
    with pytest.raises(ConfigError, match=f"cluster.{words}"):
        check(ClusterSettings(**{"capability": "9.0", **changes}))


def test_tasks_end_at_about_one_time():
    pending = [work("a", 1024), work("b", 8192), work("c", 4096), work("d", 4096)]
    shares = share(pending, 2)
    assert [[one.cell.length for one in each] for each in shares] == [[8192, 1024], [4096, 4096]]
    assert [len(each) for each in share(pending, 9)] == [1, 1, 1, 1]


def test_the_plan_is_that_of_the_cluster_and_not_of_this_machine(make, answers, capsys):
    cluster = ClusterSettings(capability="9.0", at_once=3, hours=2)
    settings = make(device="auto", action="submit", cluster=cluster, dry_run=True, dtype="bfloat16")
    assert submit.submit(settings) == 0
    shown = capsys.readouterr().out
    assert "bfloat16 on a GPU of capability 9.0" in shown
    assert "2048      2        4       0.0          ?" in shown
    assert "2 tasks, 3 at a time, each 1 GPUs, 8 cores, 64 GiB, 2 h: at most 4.0 GPU hours" in shown
    assert not Path(settings.out).exists()
    (full, rr) = make_plan(settings, submit.job_device(cluster)).cells
    assert (full.settings["device"], rr.settings["backend"]) == ("cuda 9.0", "hopper")


def test_a_refused_job_is_one_line(make, answers, capsys):
    settings = make(action="submit", cluster=ClusterSettings(gpus=0))
    answers["sbatch"] = ClusterError("sbatch refused: Invalid account")
    assert submit.submit(settings) == 1
    assert errors(capsys) == ["error: submit: sbatch refused: Invalid account"]
    assert not (Path(settings.out) / "slurm").exists()


def test_without_slurm_it_says_where_to_go(make, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit.submit(make(action="submit", cluster=ClusterSettings(gpus=0))) == 1
    assert "sinfo is not on this machine: submit from a login node" in errors(capsys)[0]


def submission(make, **changes) -> Submission:
    settings = make(action="submit", cluster=ClusterSettings(gpus=0, **changes))
    cells = make_plan(settings).cells
    pending = [jobs.Work(cell, 2) for cell in cells]
    made = Submission(settings, share(pending, 2), MAIN, "cpu")
    made.write()
    return made


def test_cells_that_are_queued_are_left_to_their_jobs(make, answers):
    made = submission(make)
    (made.folder / "job").write_text("7\n")
    keys = [jobs.short_key(cells[0]) for cells in made.shares]
    answers["squeue"] = "2\n"
    assert still_queued(made.out) == {keys[1]}
    answers["squeue"] = ClusterError("squeue refused: slurm_load_jobs error: Invalid job id specified")
    assert still_queued(made.out) == set()
    # The next submission has a folder of its own.
    assert submission(make).folder.name == "2"


def test_venv_or_container():
    assert python(ClusterSettings()) == [sys.executable]
    assert python(ClusterSettings(python="/venv/bin/python")) == ["/venv/bin/python"]
    inside = ClusterSettings(container="apptainer exec --nv image.sif")
    assert python(inside) == ["apptainer", "exec", "--nv", "image.sif", "python3"]


def test_a_task_is_a_run_of_its_cells_and_can_be_repeated_by_hand(make, tmp_path):
    made = submission(make, setup=["export GREETING='good morning'"])
    shown = tmp_path / "python"
    shown.write_text('#!/bin/bash\nprintf "%s\\n" "$GREETING" "$@"\n')
    shown.chmod(0o755)
    made.settings.cluster.python = str(shown)
    script, *arguments = made._array_command()
    env = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "1"}
    command = ["bash", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    key = jobs.short_key(made.shares[1][0])
    folder = ["--config-dir", str(made.folder), "--config-name", "settings"]
    assert done.stdout.splitlines() == ["good morning", "-m", "rr_bench", *folder, f"cells=['{key}']"]
    assert Path(script).parent == SLURM


def test_only_the_cells_that_are_named_run_and_others_are_refused(make, capsys):
    settings = make(methods=["full", {"name": "rr", "tau": 0.5}])
    full, rr = (cell_key(cell.settings) for cell in make_plan(settings).cells)
    settings.cells = [rr[:12]]
    assert run(settings) == 0
    assert "1 cells, 1 with work left" in capsys.readouterr().out
    assert list(lines(settings)) == ["rr"] and not (Path(settings.out) / "summary.csv").exists()
    settings.cells, settings.seed = [full[:12]], 7
    assert run(settings) == 1
    assert f"there is no cell {full[:12]} with these settings on cpu" in errors(capsys)[0]


def test_how_a_model_is_spread_does_not_change_what_a_cell_is(make, checkpoint):
    models = [ModelSettings(str(checkpoint), device_map=one) for one in (None, "auto")]
    plans = [make_plan(make(model=model)) for model in models]
    assert len({cell_key(plan.cells[0].settings) for plan in plans}) == 1
