"""Settings: typos name the nearest key, grids expand, models are found, plans are ordered."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from rr_bench.catalog import expand_method, expand_task
from rr_bench.checkpoint import (
    CheckpointError,
    Device,
    check_length,
    max_positions,
    read_config,
    resolve_dtype,
    resolve_path,
)
from rr_bench.config import CONF, ROOT, ConfigError, known_keys, read_settings
from rr_bench.device import resolve_device
from rr_bench.overrides import prepare
from rr_bench.plan import make_plan
from rr_bench.store import cell_key
from tests.tiny import tiny_llama

DEFAULTS = {
    name: value
    for name, value in yaml.safe_load((CONF / "config.yaml").read_text()).items()
    if name not in ("defaults", "hydra")
}


def settings(**changes):
    model = {"path": "somewhere", **changes.pop("model", {})}
    return read_settings({**DEFAULTS, "model": model, **changes})


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


def test_default_config_holds_every_setting_of_the_schema():
    composed = {**DEFAULTS, "model": yaml.safe_load((CONF / "model/hf.yaml").read_text())}
    flat = {key for name, value in composed.items() for key in [name, *_nested(name, value)]}
    assert flat == set(known_keys())


def _nested(name, value):
    return [f"{name}.{key}" for key in value] if isinstance(value, dict) else []


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_experiments_name_only_known_settings_methods_and_tasks(path):
    found = settings(**yaml.safe_load(path.read_text()))
    assert all(expand_task(task) for task in found.tasks)
    assert all(expand_method(method) for method in found.methods)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"lenghts": [2048]}, "lengths"),
        ({"data": {"helmetdir": None}}, "data.helmet_dir"),
        ({"model": {"pth": "x"}}, "model.path"),
        ({"method": ["rr"]}, "methods"),
    ],
)
def test_misspelt_keys_name_the_nearest(changes, hint):
    with pytest.raises(ConfigError, match=f"did you mean '{hint}'"):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": "many"}, "samples.*'many'"),
        ({"samples": 0}, "samples=0"),
        ({"lengths": 4096}, r"lengths=\[4096\]"),
        ({"lengths": ["long"]}, r"lengths\[0\].*'long'"),
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": [4096, 4096]}, "twice"),
        ({"backend": "tritn"}, "did you mean 'triton'"),
        ({"dense_below": -1}, "dense_below=-1: a token count, or 0 for never"),
        ({"keep": "papr"}, "did you mean 'paper'"),
        ({"keep": {"sinks": True}}, "did you mean 'sink'"),
        ({"keep": {"sink": 3}}, "keep.sink=3"),
        ({"model": {"path": "???"}}, r"model\.path is not set"),
        ({"out": "???"}, "out is not set"),
        ({"latency": {"levels": ["kernel"]}}, "unknown level 'kernel'"),
        ({"latency": {"densities": []}}, r"latency.densities=\[\] is empty"),
        ({"latency": {"replay": [1.5]}}, "shares above 0"),
        ({"latency": {"calls": 0}}, "above 0"),
        ({"latency": {"budget_s": {"prefil": 3}}}, "did you mean 'prefill'"),
        ({"latency": {"budget_s": "long"}}, "seconds"),
    ],
)
def test_impossible_values_name_the_setting(changes, words):
    with pytest.raises(ConfigError, match=words):
        settings(**changes)


def test_keep_may_be_spelt_out():
    assert settings(keep={"sink": True, "last_row": False}).keep == {"sink": True, "last_row": False}


def test_a_list_value_expands_to_a_grid_in_order():
    specs = expand_method({"name": "rr", "tau": [0.95, 0.9], "stride": [8, 16]})
    assert [(s.params["tau"], s.params["stride"]) for s in specs] == [
        (0.95, 8),
        (0.95, 16),
        (0.9, 8),
        (0.9, 16),
    ]
    assert specs[0].label == "rr(tau=0.95, stride=8)"
    assert len({s.label for s in specs}) == 4


def test_label_and_params_do_not_depend_on_how_defaults_are_given():
    defaults = yaml.safe_load((CONF / "method/rr.yaml").read_text())
    spelt = expand_method({"name": "rr", "tau": defaults["tau"]})
    assert spelt == expand_method("rr")


def test_dense_is_read_from_the_class():
    assert expand_method("full")[0].dense
    assert not expand_method("rr")[0].dense
    assert expand_method("full")[0].label == "full"


def test_unknown_methods_and_settings_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        expand_method("ful")
    with pytest.raises(ConfigError, match="did you mean 'stride'"):
        expand_method({"name": "rr", "strid": 8})
    with pytest.raises(ConfigError, match="neither a name nor a mapping"):
        expand_method(["rr"])


@pytest.mark.parametrize(
    ("target", "words"),
    [("somewhere.else.Thing", "no class of this project"), ("method.base.Absent", "no class Absent")],
)
def test_a_wrong_target_is_named(tmp_path, target, words):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/odd.yaml").write_text(f"_target_: {target}\n")
    with pytest.raises(ConfigError, match=words):
        expand_method("odd", tmp_path)


def test_groups_expand_to_tasks_and_carry_their_sources():
    specs = expand_task("helmet_recall")
    assert [spec.name for spec in specs] == ["json_kv", "niah_mk_2", "niah_mk_3", "niah_mv"]
    assert {"tasks/recall/json_kv.yaml", "tasks/recall/_generate.yaml"} <= specs[0].sources.keys()
    assert "rr_bench/tasks/json_kv.py" in specs[0].sources
    with pytest.raises(ConfigError, match="did you mean 'json_kv'"):
        expand_task("jsonkv")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model=/models/x", ["model=hf", "model.path='/models/x'"]),
        ("model=meta/Llama-3", ["model=hf", "model.path='meta/Llama-3'"]),
        ("model=it's", ["model=hf", "model.path='it\\'s'"]),
        ("model=probe", ["model=probe"]),
        ("model=hf", ["model=hf"]),
        ("experiment=probe", ["+experiment=probe"]),
        ("+experiment=probe_gpu", ["+experiment=probe_gpu"]),
        ("hydra.verbose=true", ["hydra.verbose=true"]),
        ("--cfg", ["--cfg"]),
        ("data.haystack=a=b", ["data.haystack=a=b"]),
        ("wandb=true", ["wandb.mode=online"]),
        ("wandb=offline", ["wandb.mode=offline"]),
        ("wandb={mode: offline}", ["wandb={mode: offline}"]),
    ],
)
def test_overrides_are_rewritten(given, expected):
    assert prepare([given]) == expected


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("lenghts=[1]", "lengths"),
        ("model.pat=x", "model.path"),
        ("+experiment=probe_gp", "probe_gpu"),
        ("experimnt=probe", "experiment"),
        ("++data.hay_stack=x", "data.haystack"),
    ],
)
def test_misspelt_overrides_name_the_nearest(given, hint):
    with pytest.raises(ConfigError, match=f"did you mean '{hint}'"):
        prepare([given])


def test_plan_is_by_length_and_task_with_the_dense_method_first(planned):
    plan = make_plan(planned)
    order = [(cell.length, cell.task.name, cell.method.label) for cell in plan.cells]
    labels = ["full", "rr(tau=0.95, stride=8)", "rr(tau=0.9, stride=8)"]
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
    data = replace(planned.data, helmet_dir=str(tmp_path))
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
        {"backend": "reference"},
        {"dtype": "bfloat16"},
        {"newline_stop": True},
    ):
        assert not set(base) & set(keys(**change)), change
    dense = {i for i, cell in enumerate(make_plan(planned).cells) if cell.method.dense}
    for change in ({"keep": "none"}, {"dense_below": 8192}):
        pairs = enumerate(zip(base, keys(**change), strict=True))
        assert {i for i, (a, b) in pairs if a == b} == dense, change


def test_a_file_that_a_setting_names_counts_by_its_content(planned, tmp_path):
    path = tmp_path / "patterns.json"
    methods = [{"name": "minference", "patterns": str(path)}]

    def key(content):
        path.write_text(content)
        plan = make_plan(replace(planned, methods=methods, lengths=[2048], tasks=["json_kv"]))
        return cell_key(plan.cells[0].settings)

    assert key("[{}]") == key("[{}]") != key("[{}, {}]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verb": "calibrat"}, "did you mean 'calibrate'"),
        ({"verb": "calibrate"}, "target_density=None"),
        ({"verb": "calibrate", "target_density": 50}, "target_density=50.* between 0 and 1"),
    ],
)
def test_verbs_and_their_settings_are_checked(changes, words):
    with pytest.raises(ConfigError, match=words):
        settings(**changes)


def test_planning_imports_neither_torch_nor_transformers(checkpoint, tmp_path):
    code = (
        "import sys\n"
        "from rr_bench.__main__ import main\n"
        f"sys.argv[1:] = ['model={checkpoint}', 'device=cpu', 'dry_run=true', 'out={tmp_path}']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'pandas'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "28 cells, 28 with work left" in done.stdout
    assert not any(tmp_path.iterdir())


def test_command_line_composes_and_leaves_no_litter(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "rr_bench", *arguments]
        env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)

    composed = call("--cfg", "job", "model=/x/y", "experiment=probe_gpu")
    found = OmegaConf.create(composed.stdout)
    assert (found.model.path, found.lengths[-1]) == ("/x/y", 131072)
    assert "usage: python -m rr_bench" in call("--help").stdout
    for wrong, word in (
        ("lenghts=[1]", "did you mean 'lengths'"),
        ("model=/no/such", "model.path=/no/such"),
    ):
        failed = call(wrong)
        assert failed.returncode != 0
        assert word in failed.stderr and len(failed.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_paths_of_models(checkpoint, tmp_path):
    assert resolve_path(str(checkpoint)) == checkpoint.resolve()
    with pytest.raises(CheckpointError, match=r"model\.path=.*no config.json"):
        resolve_path(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"model\.path=/no/such/dir: no such directory"):
        resolve_path("/no/such/dir")


def test_records_hold_no_path_of_this_machine(planned, checkpoint, tmp_path):
    patterns = tmp_path / "patterns.json"
    patterns.write_text("[]")
    methods = [{"name": "minference", "patterns": str(patterns)}]
    (cell, *_) = make_plan(replace(planned, methods=methods)).cells
    stored = cell.info()
    assert stored["model"]["path"] == f"llama@{cell.model.fingerprint[:12]}"
    assert stored["method"]["params"]["patterns"] == "patterns.json"
    assert cell.method.params["patterns"] == str(patterns)
    assert str(tmp_path.parent) not in f"{stored}{cell.settings}{cell.label}"
    assert "patterns=patterns" in cell.label


def test_text_part_of_a_vision_language_config(tmp_path):
    config = {"model_type": "vl", "text_config": {"max_position_embeddings": 77}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert max_positions(read_config(tmp_path)) == 77
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (None, 32768),
        ({"rope_type": "default"}, 32768),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ({"type": "yarn", "factor": 4.0}, 131072),
    ],
)
def test_positions_count_rope_stretching(rope, expected):
    config = {"max_position_embeddings": 32768, "rope_scaling": rope}
    assert max_positions(config) == expected
    with pytest.raises(CheckpointError, match="allow_extrapolation"):
        check_length(expected + 1, config, allow_extrapolation=False)
    check_length(expected + 1, config, allow_extrapolation=True)
    check_length(expected, config, allow_extrapolation=False)


def test_dtype_and_device_settings():
    gpu, cpu = Device("cuda", "some GPU"), Device("cpu", "cpu")
    assert resolve_dtype("auto", {"torch_dtype": "bfloat16"}, gpu) == "bfloat16"
    assert resolve_dtype("auto", {"dtype": "bfloat16"}, cpu) == "float32"
    assert resolve_dtype("bfloat16", {}, cpu) == "bfloat16"
    with pytest.raises(CheckpointError, match="dtype=None"):
        resolve_dtype("auto", {}, gpu)
    assert resolve_device("cpu") == cpu
    with pytest.raises(CheckpointError, match="device=gpu"):
        resolve_device("gpu")
