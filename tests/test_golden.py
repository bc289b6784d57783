"""The rules of golden outputs: what is a complaint, and what writing the files refuses."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from tests import golden
from tests.golden import Output, complaints, same

X = Output("method.x.X", 2, {"kept": "12 ab", "mean": 0.25})


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(X, values={"kept": "12 ab", "mean": 0.25 + 1e-7}), None),
        (
            replace(X, values={"kept": "13 ab", "mean": 0.25}),
            r"bump the version of method.x.X \(now 2\)",
        ),
        (replace(X, values={"kept": "12 ab", "mean": 0.2501}), "or restore the numbers"),
        (replace(X, version=3, values={}), "version 3 of method.x.X, but version 2 is stored; write"),
        (replace(X, version=3), "write the files again"),
        (replace(X, owner="method.y.Y"), "made by method.y.Y, stored as method.x.X's"),
    ],
)
def test_complaints(now, said):
    found = complaints({"a": X}, {"a": now})
    assert len(found) == (said is not None)
    assert said is None or re.search(said, found[0])


def test_outputs_that_come_and_go_are_named():
    assert complaints({"a": X}, {"b": X}) == [
        "a: stored, but not computed any more; write the files again",
        "b: not stored yet; write the files again",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ([1, 2], [1]),
        ({"a": 1}, {"b": 1}),
        ("a", "b"),
        (0.0, 1e-4),
        (1e6, 1e6 + 20),
    ],
)
def test_what_differs(one, other):
    assert not same(one, other) and same(one, one) and same(other, other)


def test_writing_refuses_a_change_without_a_bump(tmp_path, monkeypatch, capsys):
    maker = ModuleType("golden_maker")
    monkeypatch.setitem(sys.modules, "golden_maker", maker)
    monkeypatch.setattr(golden, "FOLDER", tmp_path / "golden")
    monkeypatch.setattr(golden, "KINDS", {"things": "golden_maker"})
    outcomes = []
    for made in (X, replace(X, values={"kept": "9"}), replace(X, values={"kept": "9"}, version=3)):
        maker.cases = lambda made=made: {"a": made}
        outcomes.append(golden.main())
        stored = json.loads((tmp_path / "golden" / "things.json").read_text())
        assert stored["a"]["version"] == (2 if len(outcomes) < 3 else 3)
    assert outcomes == [0, 1, 0]
    assert "a: the output changed; bump the version of method.x.X" in capsys.readouterr().err
    golden.check("things", {"a": made})
    with pytest.raises(AssertionError, match="restore the numbers"):
        golden.check("things", {"a": replace(made, values={"kept": "8"})})
