"""Hashes of source, models and files, and the environment record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rr_bench.store import environment as env
from rr_bench.store import fingerprint
from rr_bench.store.fingerprint import model_fingerprint, source_closure, tree_hash


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "method/__init__.py": "",
        "method/rr.py": "import torch\nfrom method.kernels import estimate\n",
        "method/full.py": "def f():\n    from .base import Method\n",
        "method/base.py": "from .kernels.dense import run\n",
        "method/kernels/__init__.py": "",
        "method/kernels/estimate.py": "import method.base\n",
        "method/kernels/dense.py": "",
        "method/unused.py": "",
        "rr_bench/__init__.py": "",
        "rr_bench/hook.py": "from method import full\nfrom . import env\n",
        "rr_bench/env.py": "",
        "other/thing.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_closure_is_transitive_and_counts_packages_and_inner_imports(tree: Path) -> None:
    base = ["method/__init__.py", "method/base.py"]
    kernels = ["method/kernels/__init__.py", "method/kernels/dense.py"]
    assert list(source_closure(["method.full"], tree)) == [*base, "method/full.py", *kernels]
    estimate = "method/kernels/estimate.py"
    assert list(source_closure(["method.rr"], tree)) == sorted(
        [*base, *kernels, estimate, "method/rr.py"]
    )
    harness = ["rr_bench/__init__.py", "rr_bench/env.py", "rr_bench/hook.py"]
    assert list(source_closure(["rr_bench.hook"], tree)) == [
        *base,
        "method/full.py",
        *kernels,
        *harness,
    ]


def test_closure_changes_with_a_dependency_only(tree: Path) -> None:
    before = source_closure(["method.rr"], tree)
    (tree / "method/unused.py").write_text("x = 1\n")
    assert source_closure(["method.rr"], tree) == before
    (tree / "method/kernels/dense.py").write_text("x = 1\n")
    after = source_closure(["method.rr"], tree)
    assert [name for name in before if before[name] != after[name]] == ["method/kernels/dense.py"]
    assert tree_hash(before) != tree_hash(after)


def test_closure_of_an_unknown_module(tree: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"method\.nothing"):
        source_closure(["method.nothing"], tree)
    with pytest.raises(ModuleNotFoundError, match=r"other\.thing"):
        source_closure(["other.thing"], tree)


def test_closure_of_the_project_itself() -> None:
    files = source_closure(["rr_bench.store.cells"])
    assert {"rr_bench/store/cells.py", "rr_bench/store/records.py"} <= files.keys()
    assert not any(name.startswith("method/") for name in files)


def make_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("whole", [True, False])
def test_model_fingerprint_sees_what_matters(
    tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_LIMIT", 10**9 if whole else 0)
    weights = bytes(10_000_000)
    first = make_model(tmp_path / "a", weights)
    second = make_model(tmp_path / "b", weights)
    base = model_fingerprint(first)
    (second / "README.md").write_text("a note")
    assert model_fingerprint(second) == base
    (second / "tokenizer.json").write_text("{ }")
    assert model_fingerprint(second) != base
    # A fine-tune: same size and header, other values all over the file.
    tuned = weights[:1000] + bytes([1]) * (len(weights) - 1000)
    assert model_fingerprint(make_model(tmp_path / "c", tuned)) != base
    assert model_fingerprint(make_model(tmp_path / "d", weights + b"x")) != base


def test_model_fingerprint_of_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.path=.*config\.json"):
        model_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no weights"):
        model_fingerprint(tmp_path)


def test_environment_is_plain_json_and_names_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = env.environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["device"] == "cpu" and found["versions"]["torch"].startswith("2.")
    assert env.package_versions("no-such-package") == {"no-such-package": "not installed"}


def test_environment_without_git_or_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(env, "_driver_gpu_name", lambda: None)
    found = env.environment()
    assert (found["commit"], found["dirty"], found["driver"]) == ("unknown", "unknown", "unknown")
    assert found["device"] == "cpu" and found["gpu_state"] == {}


def test_environment_takes_what_torch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "_run", lambda command: None)
    monkeypatch.setattr(env, "_driver_gpu_name", lambda: None)
    found = env.environment({"type": "cuda", "name": "Some GPU", "capability": "9.0"})
    assert (found["device"], found["capability"]) == ("Some GPU", "9.0")
    assert env.environment("cuda")["device"] == "unknown"


def test_gpu_query_follows_the_visible_device(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(env, "_run", lambda command: commands.append(command) or "Some GPU, 9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert env.query_gpu("name", "compute_cap") == {"name": "Some GPU", "compute_cap": "9.0"}
    assert commands[0][-1] == "--id=3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert env.query_gpu("name") == {}


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "method").mkdir()
    (tmp_path / "method/a.py").write_text("")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/new.csv").write_text("")
    clean = env.git_state(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "method/b.py").write_text("")
    assert env.git_state(tmp_path)["dirty"] is True
    assert env.git_state(tmp_path / "method")["commit"] == "unknown"
    monkeypatch.setenv("RR_BENCH_COMMIT", "abc")
    assert env.git_state(tmp_path / "method") == {"commit": "abc", "dirty": "unknown"}
