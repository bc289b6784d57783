"""The report: rows, refusals, figures, and that none of it needs torch."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rr_bench.report import write_report
from rr_bench.report.load import natural
from rr_bench.report.style import length_label, method_styles
from rr_bench.store.jsonl import StoreError, read_json, write_json
from rr_bench.store.reading import read_store
from tests.fabricate import FULL, KEEP, RR, open_cell, record, write_cell

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("undrawn")

RR90 = {**RR, "label": "rr(tau=0.9)", "params": {"tau": 0.9, "stride": 8}}


def summary(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.csv")


def row(out: Path, method: str = RR["label"], **where: object) -> pd.Series:
    frame = summary(out)
    for name, value in {"method": method, **where}.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_table_of_a_run(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0, 0.5, 0.0], questions=64)
    write_cell(tmp_path, RR, [1.0, 0.5, 0.5, 0.0], density=0.25, questions=64)
    report = write_report(tmp_path)
    assert report.problems == []
    sparse, dense = row(tmp_path), row(tmp_path, "full")
    assert sparse["recovery"] == 80.0 and sparse["score"] == 50.0 and sparse["dense_score"] == 62.5
    assert (sparse["density"], sparse["sparsity"]) == (25.0, 75.0)
    assert (dense["density"], dense["sparsity"]) == (100.0, 0.0)
    assert math.isnan(dense["recovery"])
    assert (sparse["n"], sparse["questions"], sparse["failed"], sparse["truncated"]) == (4, 256, 0, 0)
    assert (sparse["prefill_s"], sparse["kernel"], sparse["status"]) == (1.5, "torch", "done")
    assert sparse["keep"] == "sink+diagonal+last_row" and dense["keep"] == "–"
    page = (tmp_path / "summary.md").read_text()
    assert "| 80.0 " in page and "commit: abc with uncommitted changes" in page and "torch 2.13" in page
    assert "paired bootstrap" in page and "causal triangle" in page
    assert "80.0" in report.table


def test_missing_cell_is_shown(tmp_path: Path) -> None:
    for length in (4096, 8192):
        write_cell(tmp_path, FULL, [1.0], length=length)
    write_cell(tmp_path, RR, [1.0], length=4096)
    write_report(tmp_path)
    hole = row(tmp_path, length=8192)
    assert hole["status"] == "missing" and hole["n"] == 0 and math.isnan(hole["score"])


def test_a_calibrated_setting_is_expected_where_it_was_measured_only(tmp_path: Path) -> None:
    calibrated = {**RR, "label": "rr(tau=0.8)", "params": {"tau": 0.8, "stride": 8}}
    for length in (4096, 8192, 16384):
        write_cell(tmp_path, FULL, [1.0], length=length)
        write_cell(tmp_path, FULL, [1.0], length=length, task="niah_mv")
        write_cell(tmp_path, RR, [1.0], length=length)
    write_cell(tmp_path, calibrated, [1.0], length=4096)
    write_report(tmp_path)
    assert "missing" not in (tmp_path / "summary.csv").read_text()


def test_no_dense_cell_is_refused(tmp_path: Path) -> None:
    write_cell(tmp_path, RR, [1.0, 1.0], density=0.5)
    report = write_report(tmp_path)
    assert "no dense cell" in report.problems[0]
    assert math.isnan(row(tmp_path)["recovery"]) and row(tmp_path)["score"] == 100


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    with open_cell(tmp_path) as dense:
        dense.append(record("0", 1.0, prompt_sha="another"))
    write_cell(tmp_path, RR, [1.0])
    assert "prompt_sha differs from the dense cell's in 1 of 1" in write_report(tmp_path).problems[0]


def test_dense_cell_without_the_samples_is_refused_and_with_more_is_not(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 1.0, 0.0])
    write_cell(tmp_path, RR, [1.0, 0.5])
    write_cell(tmp_path, RR90, [1.0, 1.0, 0.0, 1.0])
    (problem,) = write_report(tmp_path).problems
    assert "rr(tau=0.9" in problem and "lacks 1 of 4 samples (first: 3)" in problem
    assert (row(tmp_path)["dense_score"], row(tmp_path)["recovery"]) == (100.0, 75.0)
    assert math.isnan(row(tmp_path, RR90["label"])["recovery"])


def test_failed_samples_are_counted_and_left_out_of_both_means(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.5, 1.0])
    write_cell(tmp_path, RR, [0.5, None, 1.0], density=0.5)
    report = write_report(tmp_path)
    found = row(tmp_path)
    assert (found["n"], found["failed"], found["status"]) == (2, 1, "done")
    assert (found["recovery"], found["dense_score"]) == (75.0, 100.0)
    assert "note: rr(tau=0.95)-json_kv-4096 failed: out of memory" in report.table


def test_unreadable_cell_is_a_problem_and_the_rest_reports(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    bad = write_cell(tmp_path, RR, [1.0]).folder / "samples.jsonl"
    bad.write_text("garbage\n" + bad.read_text())
    report = write_report(tmp_path)
    assert "samples.jsonl:1: not JSON" in report.problems[0]
    assert row(tmp_path, "full")["status"] == "done"


def test_later_versions_replace_a_row_and_say_so(tmp_path: Path) -> None:
    for version, score in ((1, 0.5), (2, 1.0)):
        versions = {"method": version, "executor": 1, "model": 1, "task": 1, "prompts": 1, "scorer": 1}
        write_cell(tmp_path, FULL, [1.0], versions=versions)
        write_cell(tmp_path, RR, [score], versions=versions)
    report = write_report(tmp_path)
    assert report.problems == [] and report.table.count("gave way") == 2
    assert row(tmp_path)["score"] == 100


def test_header_names_every_session_of_a_resumed_cell(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, FULL, [1.0])
    path = cell.folder / "env.json"
    write_json(path, {**read_json(path), "resumed": [{"commit": "def", "dirty": False}]})
    write_report(tmp_path)
    assert "- commit: abc with uncommitted changes; def\n" in (tmp_path / "summary.md").read_text()


def test_models_and_keep_rules_are_kept_apart(tmp_path: Path) -> None:
    for model in ("probe", "other"):
        where = {"model": model, "fingerprint": model}
        write_cell(tmp_path, FULL, [1.0, 1.0], **where)
        write_cell(tmp_path, RR, [1.0, 1.0], density=0.5, **where)
    sink = KEEP | {"last_row": False}
    write_cell(tmp_path, RR, [0.5, 0.5], density=0.6, fingerprint="probe", keep=sink)
    report = write_report(tmp_path)
    assert row(tmp_path, keep="sink+diagonal")["recovery"] == 50
    assert {path.name for path in report.paths} >= {
        "recovery_by_density-json_kv-probe.png",
        "recovery_by_density-json_kv-other.png",
    }
    assert any(line.startswith("setup") for line in report.table.splitlines())


def test_two_models_of_one_name_are_two_models(tmp_path: Path) -> None:
    for fingerprint in ("aaaaaaaa", "bbbbbbbb"):
        write_cell(tmp_path, FULL, [1.0], fingerprint=fingerprint)
        write_cell(tmp_path, RR, [0.5], fingerprint=fingerprint)
    assert write_report(tmp_path).problems == []
    assert sorted(set(summary(tmp_path)["model"])) == ["probe#aaaaaa", "probe#bbbbbb"]


OTHERS = {
    "model": "ffffffff",
    "rope": {"rope_type": "yarn", "factor": 4.0},
    "trust_remote_code": True,
    "dtype": "bfloat16",
    "device": "cuda 9.0",
    "method": {"name": "rr", "params": {"tau": 0.95}, "files": {"offset": "12"}},
    "keep": KEEP | {"sink": False},
    "backend": "hopper",
    "dense_below": 8192,
    "task": "niah_mv",
    "length": 8192,
    "newline_stop": True,
    "seed": 7,
    "decode": "generate",
    "decode_together": 8,
    "data": {"source": "helmet", "files": {}},
}
"""Another value for everything that a key is made of, versions aside."""


def test_every_setting_of_a_key_has_another_value_above() -> None:
    from rr_bench.plan.cells import make_plan
    from tests.configured import settings as run_settings  # loads torch

    plan = make_plan(run_settings(model={"path": "rr_bench/probe/model", "rope": {"rope_type": "a"}}))
    named = {name for cell in plan.cells for name in cell.settings}
    left_out = {"trust_remote_code", "dense_below", "decode", "decode_together"}
    assert named | left_out == OTHERS.keys() | {"versions"}


@pytest.mark.parametrize("name", OTHERS)
def test_cells_that_differ_in_one_setting_are_two_rows(tmp_path: Path, name: str) -> None:
    write_cell(tmp_path, RR, [1.0])
    if name in ("task", "length"):
        write_cell(tmp_path, RR, [0.5], **{name: OTHERS[name]})
    else:
        write_cell(tmp_path, RR, [0.5], replaced={name: OTHERS[name]})
    write_report(tmp_path)
    frame = summary(tmp_path)
    shown = frame[frame["status"] == "done"]
    assert sorted(shown["score"]) == [50, 100]
    telling = shown.drop(columns=["score", "cell", "n", "density", "sparsity"])
    assert (telling.nunique(dropna=False) > 1).any()


@pytest.mark.parametrize("setting", ["strict_truncation", "chat", "clinic_split", "thinking"])
def test_settings_of_the_data_are_columns_where_they_vary(tmp_path: Path, setting: str) -> None:
    data = {"source": "helmet", "files": {}}
    write_cell(tmp_path, RR, [1.0], data=data)
    write_cell(tmp_path, RR, [0.5], data=data | {setting: "other"})
    write_report(tmp_path)
    frame = summary(tmp_path)
    (column,) = [name for name in frame if name.endswith(setting)]
    assert set(frame[column]) == {"default", "other"}


def test_printed_table_can_be_limited_to_a_run(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    key = write_cell(tmp_path, FULL, [1.0], length=8192).info.key
    table = write_report(tmp_path, {key}).table
    assert " 8K " in table and " 4K " not in table
    assert len(summary(tmp_path)) == 2


def test_report_needs_no_torch(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0, 0.5])
    write_cell(tmp_path, RR, [1.0, 0.5], density=0.5)
    blocked = ["torch", "transformers", "lm_eval", "hydra", "method"]
    script = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"sys.argv = ['report', {str(tmp_path)!r}]\n"
        "runpy.run_module('rr_bench.report', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "summary.csv" in done.stdout
    assert (tmp_path / "figures" / "recovery_by_density-json_kv.pdf").exists()


def test_report_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run has written"):
        read_store(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "rr_bench.report", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "no run has written" in done.stderr


def test_styles_tell_variants_apart() -> None:
    labels = [f"rr(tau=0.9, stride={stride})" for stride in (16, 8)]
    styles = method_styles([("rr", label) for label in labels] + [("full", "full"), ("new", "new")])
    looks = [
        json.dumps([style["color"], style["marker"], style["linestyle"]]) for style in styles.values()
    ]
    assert len(set(looks)) == 4
    assert sorted(labels, key=natural) == labels[::-1]
    assert [length_label(tokens) for tokens in (4096, 131072, 5000)] == ["4K", "128K", "5000"]
