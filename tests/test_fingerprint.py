"""Hashes of source, models and files, and the environment record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rr_bench.store import environment as env
from rr_bench.store import fingerprint
from rr_bench.store.fingerprint import model_fingerprint, sources_hash, tree_hash


def test_the_hash_of_the_projects_source_changes_with_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    monkeypatch.setattr(fingerprint, "TASKS", tmp_path / "tasks")
    names = ("method/a.py", "rr_bench/run/b.py", "tasks/c.yaml")
    for name in (*names, "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    found = [sources_hash.__wrapped__()]
    for name in names:
        (tmp_path / name).write_text("second")
        found.append(sources_hash.__wrapped__())
    (tmp_path / names[0]).rename(tmp_path / "method/d.py")
    found.append(sources_hash.__wrapped__())
    assert len(set(found)) == len(found)
    (tmp_path / "README.md").write_text("second")
    assert sources_hash.__wrapped__() == found[-1]
    assert tree_hash({"a.py": "1", "b.py": "2"}) != tree_hash({"a.py": "2", "b.py": "1"})


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
