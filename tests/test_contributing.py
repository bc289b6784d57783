"""The example in CONTRIBUTING is a method like any other: it passes the contract suite."""

from __future__ import annotations

import inspect
import re
import sys
import types
from pathlib import Path

import pytest

from tests import test_contract

GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
SECTION = GUIDE.partition("## Add a method")[2].partition("\n## ")[0]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """The example's YAML; its module is importable under the name the text gives it."""
    named = re.search(r"`method/(\w+)\.py`", SECTION)
    assert named is not None and f"`conf/method/{named[1]}.yaml`" in SECTION
    module = types.ModuleType(f"method.{named[1]}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block("python"), f"{named[1]}.py", "exec"), module.__dict__)
    path = tmp_path / "method" / f"{named[1]}.yaml"
    path.parent.mkdir()
    path.write_text(block("yaml"))
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
def test_the_example_keeps_the_contract(config, check, arguments):
    check(config, **arguments)


def test_the_section_is_short():
    assert 10 < len(SECTION.strip().splitlines()) < 40
