"""Settings: typos name the nearest key, grids expand, models are found, plans are ordered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rr_bench import CONF
from rr_bench.config.command_line import prepare
from rr_bench.config.errors import ConfigError
from rr_bench.config.help import help_text
from rr_bench.config.registry import expand_method, expand_task
from rr_bench.config.schema import declared
from rr_bench.plan.device import resolve_device
from rr_bench.plan.model_facts import (
    CheckpointError,
    Device,
    check_length,
    max_positions,
    read_config,
    resolve_dtype,
    resolve_path,
)
from tests.configured import settings
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


def test_every_setting_is_declared_once_with_its_help():
    names = [one.name for one in declared()]
    assert len(set(names)) == len(names)
    assert not [one.name for one in declared() if not one.help]
    assert {"seed", "backend", "data.chat"} <= {one.name for one in declared() if one.key}
    assert {"out", "samples", "data.hub"} <= {one.name for one in declared() if not one.key}


def test_help_lists_every_setting():
    text = " ".join(help_text().split())
    assert not [one.name for one in declared() if one.name not in text]
    assert "Exit status" in text


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
        ({"workers": 0}, "workers=0: at least 1 is needed"),
        ({"workers": 2, "verb": "search"}, "workers=2: verb=search runs in one process"),
        ({"decode": "grph"}, "did you mean 'graph'"),
        ({"decode_together": 0}, "at least 1"),
        ({"decode_together": 8, "decode": "generate"}, "leave one out"),
        ({"dense_below": -1}, "dense_below=-1: a token count, or 0 for never"),
        ({"dense_below": "auto"}, "dense_below=auto: crossover="),
        ({"dense_below": "auto", "verb": "latency"}, "dense_below=auto: verb=latency needs"),
        ({"keep": "papr"}, "did you mean 'paper'"),
        ({"keep": {"sinks": True}}, "did you mean 'sink'"),
        ({"keep": {"sink": 3}}, "keep.sink=3"),
        ({"keep": ["none", "papr"]}, "did you mean 'paper'"),
        ({"keep": []}, r"keep=\[\]"),
        ({"keep": ["none"], "verb": "search"}, "verb=search takes one rule"),
        ({"model": {"path": "???"}}, r"model\.path is not set"),
        ({"out": "???"}, "out is not set"),
        ({"latency": {"levels": ["kernel"]}}, "unknown level 'kernel'"),
        ({"latency": {"densities": []}}, r"latency.densities=\[\] is empty"),
        ({"latency": {"replay": [1.5]}}, "shares above 0"),
        ({"latency": {"calls": 0}}, "above 0"),
        ({"latency": {"models": ["lama31_8b"]}}, "did you mean 'llama31_8b'"),
        ({"latency": {"budget_s": {"prefil": 3}}}, "did you mean 'prefill'"),
        ({"latency": {"budget_s": "long"}}, "seconds"),
    ],
)
def test_impossible_values_name_the_setting(changes, words):
    with pytest.raises(ConfigError, match=words):
        settings(**changes)


def test_keep_may_be_spelt_out():
    rule = {"sink": True, "last_row": False}
    assert settings(keep=rule).keep == rule
    assert settings(keep=["paper", rule]).keep == ["paper", rule]


def test_a_list_value_expands_to_a_grid_in_order():
    specs = expand_method({"name": "rr", "tau": [0.95, 0.9], "stride": [8, 16]})
    assert [(s.params["tau"], s.params["stride"]) for s in specs] == [
        (0.95, 8),
        (0.95, 16),
        (0.9, 8),
        (0.9, 16),
    ]
    assert specs[0].label == "rr(tau=0.95)"
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
    [
        ("somewhere.else.Thing", "somewhere.else.Thing.*no class that can be imported"),
        ("method.base.Absent", "no class that can be imported"),
        ("pathlib.Path", "no subclass of method.base.Method"),
    ],
)
def test_a_wrong_target_is_named(tmp_path, target, words):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/odd.yaml").write_text(f"_target_: {target}\n")
    with pytest.raises(ConfigError, match=words):
        expand_method("odd", tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        {"_target_": "os.system", "command": "true"},
        {"deeper": {"_target_": "os.system"}},
        [{"_target_": "os.system"}],
        [[{"a": [{"_target_": "os.system"}]}]],
    ],
)
def test_a_target_inside_a_setting_is_refused(value):
    with pytest.raises(ConfigError, match="_target_ belongs into conf/method alone"):
        expand_method({"name": "rr", "offset": value})


def test_groups_expand_to_tasks_and_carry_their_versions():
    specs = expand_task("helmet_recall")
    assert [spec.name for spec in specs] == ["json_kv", "niah_mk_2", "niah_mk_3", "niah_mv"]
    assert specs[0].versions.keys() == {"task", "prompts", "scorer"}
    with pytest.raises(ConfigError, match="did you mean 'json_kv'"):
        expand_task("jsonkv")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model=/models/x/", ["model=hf", "model.path='/models/x/'", "model.name='x'"]),
        ("model=meta/Llama-3", ["model=hf", "model.path='meta/Llama-3'", "model.name='Llama-3'"]),
        ("model=it's", ["model=hf", "model.path='it\\'s'", "model.name='it_s'"]),
        ("model=a/b.gguf", ["model=hf", "model.path='a/b.gguf'", "model.name='b'"]),
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": "sumbit"}, "did you mean 'submit'"),
        ({"action": "submit"}, "cluster.capability is not set"),
        ({"action": "submit", "cluster": {"gpus": 0}, "verb": "latency"}, "runs in one process"),
        ({"action": "submit", "cluster": {"gpus": 0}, "slice": "1/2"}, "leave slice and cells out"),
        ({"action": "submit", "cluster": {"gpus": 4, "capability": "9.0"}}, "set workers=4"),
        ({"model": {"device_map": "evenly"}}, "model.device_map=evenly: .*balanced"),
        ({"verb": "calibrat"}, "did you mean 'calibrate'"),
        ({"verb": "calibrate"}, "target_density=None"),
        ({"verb": "calibrate", "target_density": 50}, "target_density=50.* between 0 and 1"),
    ],
)
def test_verbs_and_their_settings_are_checked(changes, words):
    with pytest.raises(ConfigError, match=words):
        settings(**changes)


def test_paths_of_models(checkpoint, tmp_path):
    assert resolve_path(str(checkpoint)) == checkpoint.resolve()
    with pytest.raises(CheckpointError, match=r"model\.path=.*no config.json"):
        resolve_path(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"model\.path=/no/such/dir: no such file or directory"):
        resolve_path("/no/such/dir")


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
        ({"type": "yarn", "factor": 4.0}, 32768),
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
