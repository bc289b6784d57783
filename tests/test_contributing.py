"""CONTRIBUTING's examples work as written, and README's code runs."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rr_bench import ROOT
from tests import guide, test_contract

FILES = guide.files()
METHOD = "mean_key"


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """The example's YAML; its modules are importable under the names the text gives them."""
    package = types.ModuleType("method.ops.key_norms")
    package.__path__ = [str(tmp_path / "method/ops/key_norms")]
    monkeypatch.setitem(sys.modules, package.__name__, package)
    # A kernel's text is read from its file when it is compiled, so the package lies in a folder.
    for name, text in FILES.items():
        if name.startswith("method/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("method/ops/key_norms/torch.py", f"method/{METHOD}.py"):
        module = types.ModuleType(name.removesuffix(".py").replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(FILES[name], str(tmp_path / name), "exec"), module.__dict__)
    path = tmp_path / f"method/{METHOD}.yaml"
    path.write_text(FILES[f"conf/method/{METHOD}.yaml"])
    return path


def contract() -> list:
    """Every check of the contract suite, with one example of each parameter."""
    checks = []
    for name, check in inspect.getmembers(test_contract, inspect.isfunction):
        if name.startswith("test_"):
            marks = getattr(check, "pytestmark", [])
            arguments = {m.args[0]: m.args[1][-1] for m in marks if m.name == "parametrize"}
            others = [mark for mark in marks if mark.name != "parametrize"]
            checks.append(pytest.param(check, arguments, id=name, marks=others))
    return checks


@pytest.mark.parametrize(("check", "arguments"), contract())
def test_the_method_keeps_the_contract(config, check, arguments):
    check(config, **arguments)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project to which everything was added that CONTRIBUTING shows."""
    copy = tmp_path_factory.mktemp("workshop")
    unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors", "golden", "gpu", "test_*")
    for folder in ("method", "rr_bench", "conf", "tasks", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in FILES.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(text, encoding="utf-8")
    sources = copy / "rr_bench/tasks/sources.py"
    before = sources.read_text(encoding="utf-8")
    after = re.sub(r"^TASKS = \((.*)\)$", r'TASKS = (\1, "line_lookup")', before, flags=re.M)
    assert after != before
    sources.write_text(after, encoding="utf-8")
    return copy


def call(workshop: Path, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(workshop), **variables}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=workshop, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_method_and_task_run_in_the_harness(workshop, smallest):
    methods = f"methods=[full,{{name: {METHOD}, tau: [0.9,0.5]}}]"
    settings = ("tasks=[line_lookup]", "lengths=[1024]", "samples=2", f"model={smallest}", methods)
    shown = call(workshop, "rr_bench", *settings)
    for label in ("full", f"{METHOD}(tau=0.9)", f"{METHOD}(tau=0.5)"):
        assert re.search(rf"^{re.escape(label)} +line_lookup +1K +2 ", shown, re.M), shown


def test_the_kernel_passes_its_own_test(workshop):
    shown = call(
        workshop, "pytest", "-n", "0", "tests/interpreter/test_key_norms_triton.py",
        TRITON_INTERPRET="1",
    )  # fmt: skip
    assert "2 passed" in shown


@pytest.mark.parametrize("snippet", guide.snippets())
def test_the_code_of_the_readme_runs(snippet, capsys):
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out
