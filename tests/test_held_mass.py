"""Attention mass in kept blocks: by hand, in a run, in the store and in the report."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from method.attention import SparsePrefill
from method.blocks import causal_map
from method.keep import NO_KEEP
from method.minference import MInference
from method.oracle import Oracle
from method.rr import RRAttention
from rr_bench.model.held_mass import MassTap, held_mass
from rr_bench.report import write_report
from rr_bench.report.held_mass import heat_maps
from rr_bench.report.style import RC
from rr_bench.run.diagnose import diagnose
from rr_bench.store.diagnosis import TABLES, VERSION
from rr_bench.store.freeze import freeze, thaw
from rr_bench.store.jsonl import StoreError, read_json
from rr_bench.store.reading import read_store
from tests.attention_cases import Case, tensors
from tests.fabricate import FULL, RR, cells_of, open_cell, write_cell


def told_slowly(query, key, kept, scale):
    """Mean and worst share of one head's queries inside the blocks, query by query."""
    shift, shares = key.shape[0] - query.shape[0], []
    for row, one in enumerate(query):
        weights = (key[: row + shift + 1] @ one * scale).softmax(0)
        blocks = [part.sum() for part in weights.split(128)]
        shares.append(sum(float(x) for x, on in zip(blocks, kept[row // 128], strict=False) if on))
    rows = [min(shares[start : start + 128]) for start in range(0, len(shares), 128)]
    return sum(shares) / len(shares), sum(rows) / len(rows)


@pytest.mark.parametrize(
    "case", [Case(300, 300, group=2), Case(200, 333, group=1, kv_heads=2)], ids=str
)
def test_the_mass_told_slowly(case):
    query, key, _ = tensors(case)
    generator = torch.Generator().manual_seed(3)
    visible = causal_map(case.q_len, case.k_len)
    drawn = torch.rand(2, 1, case.heads, *visible.shape, generator=generator) < 0.5
    found = held_mass(query, key, drawn & visible, scale=0.2)
    for method in range(2):
        for head in range(case.heads):
            kept = (drawn & visible)[method, 0, head].tolist()
            wanted = told_slowly(query[0, head], key[0, head // case.group], kept, 0.2)
            assert found[0, :, method, head].tolist() == pytest.approx(wanted, abs=1e-5)
    # No selection of that size holds more than the summed oracle's.
    assert (found[1, 0] >= found[0, 0] - 1e-6).all() and (found[1, 0] >= found[2, 0] - 1e-6).all()


def test_everything_holds_all_and_an_oracle_is_its_own_bound():
    query, key, value = tensors(Case(700, 700, group=2))
    prefills = {
        name: SparsePrefill(method, NO_KEEP)
        for name, method in (
            ("all", RRAttention(tau=1.0)),
            ("sum", Oracle(tau=0.6)),
            ("max", Oracle(tau=0.6, reduction="max")),
            ("native", MInference(variant="native")),
        )
    }
    tap = MassTap(prefills)
    tap.note(query, key, value, scale=0.3, layer=5)
    (found,) = tap.found[5]
    torch.testing.assert_close(found[:, 0], torch.ones(7, 2))
    torch.testing.assert_close(found[1:3, 1], found[3:5, 1])
    torch.testing.assert_close(found[1:3, 2], found[5:7, 2])
    assert (found[0, 1] < 1).all() and (found[2] <= found[1] + 1e-6).all()
    assert list(tap.failed) == ["native"] and "kernel of its own" in str(tap.failed["native"])


@pytest.mark.usefixtures("undrawn")
def test_a_run_diagnoses_scores_and_reports(make, capsys):
    methods = ["full", {"name": "rr", "tau": 0.3}, {"name": "streaming", "window": 640}]
    settings = make(methods=methods, samples=1)
    assert diagnose(settings) == 0
    shown = capsys.readouterr().out
    assert "Attention mass in the kept blocks" in shown
    out = Path(settings.out)
    frame = pd.read_csv(out / "tables" / "held_mass.csv").set_index("method")
    assert len(frame) == 2 and set(frame["prompts"]) == {1}
    assert (frame["oracle_mass"] >= frame["mass"]).all() and (frame["worst"] < frame["mass"]).all()
    assert str(out / "figures") in shown
    scored = pd.read_csv(out / "summary.csv").set_index("method")
    # On dense inputs the first layer selects as in the run, the others nearly so.
    assert frame["density"].to_dict() == pytest.approx(scored["density"].drop("full").to_dict(), abs=2)
    found = next(cell for cell in cells_of(out) if cell.info.method["name"] == "rr").diagnosis
    assert [len(found[name]) for name in TABLES] == [2] * 7 and found["layers"] == [0, 1]
    # What is there is not measured again.
    capsys.readouterr()
    assert diagnose(settings) == 0
    assert "diagnosing" not in capsys.readouterr().out


TABLE = [[0.5, 0.25, 1.0]] * 2
GOOD = {"version": VERSION, "prompts": 3, "layers": [0, 7], **dict.fromkeys(TABLES, TABLE)}


def diagnosed(out: Path) -> None:
    write_cell(out, FULL, [1.0])
    cell = write_cell(out, RR, [1.0])
    with cell:
        cell.note_diagnosis(GOOD)


def test_a_frozen_store_keeps_the_diagnosis(tmp_path):
    diagnosed(tmp_path / "run")
    freeze(tmp_path / "run", tmp_path / "frozen")
    thaw(tmp_path / "frozen", tmp_path / "again")
    for name in ("run", "frozen", "again"):
        cells, problems = read_store(tmp_path / name)
        assert not problems and [cell.diagnosis for cell in cells] == [None, GOOD]
    lines = (tmp_path / "frozen" / "cells.jsonl").read_text().splitlines()
    assert ["diagnosis" in json.loads(line) for line in lines] == [False, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": -1}, "prompts=-1 is no count"),
        ({"layers": [0]}, "density must hold shares"),
        ({"mass": [[0.5, 2.0, 1.0]] * 2}, "mass must hold shares"),
        ({"worst": [[0.5]] * 2}, "worst has other heads"),
        ({"oracle_mass": None}, "oracle_mass must hold"),
    ],
)
def test_what_no_diagnosis_wrote_is_refused(tmp_path, change, words):
    with pytest.raises(StoreError, match=words), open_cell(tmp_path, RR) as cell:
        cell.note_diagnosis(GOOD | change)


@pytest.mark.usefixtures("undrawn")
def test_the_table_names_the_worst_head_and_figures_go_on(tmp_path):
    diagnosed(tmp_path)
    for number in range(7):
        method = {
            **RR,
            "label": f"rr(tau=0.{number + 1})",
            "params": {"tau": (number + 1) / 10, "stride": 8},
        }
        with write_cell(tmp_path, method, [1.0], length=8192) as cell:
            cell.note_diagnosis(GOOD)
    report = write_report(tmp_path, pdf=False)
    frame = pd.read_csv(tmp_path / "tables" / "held_mass.csv")
    assert frame["worst_head"].tolist() == ["0.1: 25.0"] * 8
    assert frame["densest_head"].tolist() == ["0.2: 100.0"] * 8
    assert frame["mass"].tolist() == pytest.approx([100 * 7 / 12] * 8)
    names = {path.name for path in report.paths if path.name.startswith("held_mass-")}
    assert names == {"held_mass-json_kv.png", "held_mass-json_kv-2.png"}
    with matplotlib.rc_context(RC):
        figure = heat_maps(cells_of(tmp_path)[-2:], "a task")
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 8 and all(one.shape == (3, 2) for one in shown)
    for panel, name in zip(shown, ["density", "mass", "worst", "oracle_max_worst"] * 2, strict=True):
        assert np.array_equal(panel, 100 * np.array(GOOD[name]).T)
    assert read_json(next(tmp_path.glob("cells/*/diagnosis.json")))["prompts"] == 3
