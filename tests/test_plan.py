"""Plans: the order of cells, slices, what is a cell of its own, what cannot be planned."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rr_bench.config.errors import ConfigError
from rr_bench.plan.cells import make_plan
from rr_bench.store.cells import cell_key
from rr_bench.tasks.sources import versions
from tests.configured import settings
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def planned(checkpoint):
    """Settings of a small plan on a model that exists."""
    return settings(
        model={"path": str(checkpoint)},
        device="cpu",
        lengths=[4096, 2048],
        methods=[{"name": "rr", "tau": [0.95, 0.9], "stride": 8}, "full"],
    )


def test_plan_is_by_length_and_task_with_the_dense_method_first(planned):
    plan = make_plan(planned)
    order = [(cell.length, cell.task.name, cell.method.label) for cell in plan.cells]
    labels = ["full", "rr(tau=0.95)", "rr(tau=0.9)"]
    assert order == [(n, t, m) for n in (2048, 4096) for t in planned.tasks for m in labels]
    assert len({cell_key(cell.settings) for cell in plan.cells}) == len(order)
    assert plan.problems == []


@pytest.mark.parametrize("count", [1, 2, 5, 13])
def test_slices_partition_the_plan(planned, count):
    def keys(**changes):
        return [cell_key(cell.settings) for cell in make_plan(replace(planned, **changes)).cells]

    parts = [keys(slice=f"{index}/{count}") for index in range(1, count + 1)]
    whole = keys()
    assert sorted(key for part in parts for key in part) == sorted(whole)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "/", "1/2/3", "-1/2"])
def test_a_slice_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match=f"slice={text}"):
        settings(slice=text)


def test_unusable_entries_become_problems_and_the_rest_is_planned(planned):
    odd = replace(
        planned, methods=["full", "fulll", {"name": "rr", "taus": 1}], tasks=["json_kv", "jsn"]
    )
    plan = make_plan(odd)
    assert [cell.method.label for cell in plan.cells] == ["full", "full"]
    assert [problem.partition(":")[0] for problem in plan.problems] == ["methods", "methods", "tasks"]


def test_one_method_given_twice_is_an_error(planned):
    with pytest.raises(ConfigError, match="more than once"):
        make_plan(replace(planned, methods=["full", {"name": "full"}]))


def test_missing_helmet_length_is_a_problem_of_its_cells(planned, tmp_path):
    data = replace(planned.data, helmet_dir=str(tmp_path), recall="files")
    plan = make_plan(replace(planned, data=data, tasks=["json_kv"], lengths=[8192]))
    assert plan.cells == []
    assert "helmet_dir" in plan.problems[0]


def test_what_changes_the_key_and_what_does_not(planned):
    def keys(**changes):
        return [cell_key(cell.settings) for cell in make_plan(replace(planned, **changes)).cells]

    base = keys()
    assert keys(samples=99) == base
    assert keys(out="elsewhere") == base
    model = replace(planned.model, name="another name")
    assert keys(model=model) == base
    for change in (
        {"seed": 1},
        {"data": replace(planned.data, haystack=None, recall="generated"), "seed": 3},
        {"dtype": "bfloat16"},
        {"newline_stop": True},
        {"decode": "generate"},
    ):
        assert not set(base) & set(keys(**change)), change
    dense = {i for i, cell in enumerate(make_plan(planned).cells) if cell.method.dense}
    for change in ({"keep": "none"}, {"dense_below": 8192}, {"backend": "reference"}):
        pairs = enumerate(zip(base, keys(**change), strict=True))
        assert {i for i, (a, b) in pairs if a == b} == dense, change


def test_several_rules_of_kept_blocks_are_the_cells_of_each_once(planned):
    def keys(keep) -> set[str]:
        cells = make_plan(replace(planned, keep=keep)).cells
        assert len({cell.label for cell in cells}) == len(cells)
        return {cell_key(cell.settings) for cell in cells}

    # RRAttention's own rule is the equal one.
    rules = ["paper", "none", "equal"]
    assert keys(rules) == keys("paper") | keys("none") | keys("equal")
    assert len(keys(rules)) < len(keys("paper")) + len(keys("none")) + len(keys("equal"))


def test_decoding_together_changes_the_keys_of_what_is_decoded(planned):
    tasks = ["json_kv", "recall_prefill"]
    alone, together = (
        make_plan(replace(planned, tasks=tasks, decode_together=n)).cells for n in (1, 8)
    )
    changed = [(a.task.name, a.settings != b.settings) for a, b in zip(alone, together, strict=True)]
    assert set(changed) == {("json_kv", True), ("recall_prefill", False)}


def test_a_file_that_a_setting_names_counts_by_its_content(planned, tmp_path):
    path = tmp_path / "patterns.json"
    methods = [{"name": "minference", "patterns": str(path)}]

    def key(content):
        path.write_text(content)
        plan = make_plan(replace(planned, methods=methods, lengths=[2048], tasks=["json_kv"]))
        return cell_key(plan.cells[0].settings)

    assert key("[{}]") == key("[{}]") != key("[{}, {}]")


def test_a_setting_that_is_added_later_changes_no_key(planned):
    cell = make_plan(replace(planned, tasks=["json_kv"], lengths=[2048])).cells[1]
    assert cell.settings["method"] == {"name": "rr", "params": {}, "files": {}}
    assert not {"rope", "dense_below", "decode", "decode_together"} & set(cell.settings)
    assert cell.settings["data"] == {"source": "generated", "files": {}}


KINDS = {
    "executor": ("method.attention.VERSION", 99),
    "model": ("rr_bench.plan.cells.MODEL_VERSION", 99),
    "method": ("method.rr.RRAttention.version", 99),
    "task": ("rr_bench.config.registry.versions", lambda name: versions(name) | {"task": 99}),
    "prompts": ("rr_bench.config.registry.versions", lambda name: versions(name) | {"prompts": 99}),
    "scorer": ("rr_bench.config.registry.versions", lambda name: versions(name) | {"scorer": 99}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_of_anything_that_computes_a_number_changes_the_key(planned, monkeypatch, kind):
    one = replace(planned, methods=["rr"], tasks=["json_kv"], lengths=[2048])
    (before,) = make_plan(one).cells
    assert before.settings["versions"].keys() == KINDS.keys()
    monkeypatch.setattr(*KINDS[kind])
    (after,) = make_plan(one).cells
    assert after.settings["versions"] == before.settings["versions"] | {kind: 99}
    assert cell_key(after.settings) != cell_key(before.settings)


def test_planning_thousands_of_cells_is_quick(planned):
    taus = [round(0.5 + i / 1000, 3) for i in range(142)]
    many = replace(planned, methods=["full", {"name": "rr", "tau": taus}], lengths=[2048, 4096])
    make_plan(planned)  # what is read once
    start = time.process_time()
    cells = make_plan(many).cells
    seconds = time.process_time() - start
    assert len(cells) == 572 and seconds < 2


def test_records_hold_no_path_of_this_machine(planned, checkpoint, tmp_path):
    patterns = tmp_path / "patterns.json"
    patterns.write_text("[]")
    methods = [{"name": "minference", "patterns": str(patterns)}]
    (cell, *_) = make_plan(replace(planned, methods=methods)).cells
    stored = cell.info
    assert stored["model"]["path"] == f"llama@{cell.model.fingerprint[:12]}"
    assert stored["method"]["params"]["patterns"] == "patterns.json"
    assert cell.method.params["patterns"] == str(patterns)
    assert str(tmp_path.parent) not in f"{stored}{cell.settings}{cell.label}"
    assert "patterns=patterns" in cell.label
