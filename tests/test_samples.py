"""Samples decoded together: records as of those decoded alone, and failures that stay local."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rr_bench.model.lm import SparseHFLM
from rr_bench.run.run import INTERRUPTED, run
from rr_bench.run.samples import Samples
from tests.fabricate import cells_of
from tests.runs import errors, lines


@pytest.fixture
def small(make, tmp_path):
    """Settings of five short answers; three are decoded together if ``together``."""

    def settings(together: bool):
        return make(
            methods=["full"],
            tasks=["niah_mk_2"],
            lengths=[768],
            samples=5,
            decode_together=3 if together else 1,
            out=str(tmp_path / f"together {together}"),
        )

    return settings


def records(settings) -> list[tuple]:
    """What is stored, in its order, times aside."""
    (cell,) = cells_of(settings.out)
    return [(one.uid, one.output, one.density, one.input_tokens) for one in cell.samples]


def test_a_group_is_stored_as_its_samples_alone_and_is_lost_as_a_whole(small, monkeypatch):
    alone, together = small(False), small(True)
    assert run(alone) == 0
    original, sizes = Samples._score, []

    def score(self, rows):
        if len(sizes) == 1:
            raise KeyboardInterrupt
        sizes.append(len(rows))
        return original(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Samples, "_score", score)
        assert run(together) == INTERRUPTED
    assert sizes == [3] and lines(together) == {"full": 3}
    assert run(together) == 0
    assert records(together) == records(alone)
    first, *_, last = cells_of(together.out)[0].samples
    assert first.prefill_s > 0 and first.decode_s > 0 and last.decode_s > 0
    env = json.loads(next(Path(together.out).glob("cells/*/env.json")).read_text())
    assert env["decode"] == "steps, 3 together"
    # Another width is another number, so another cell.
    keys = {cells_of(settings.out)[0].info.key for settings in (alone, together)}
    assert len(keys) == 2


def test_one_failing_sample_costs_the_others_of_its_group_nothing(small, monkeypatch, capsys):
    original, asked = SparseHFLM._ask, []

    def ask(self, request):
        uid = request.doc["uid"]
        asked.append(uid)
        if uid == asked[1]:
            raise ValueError("this row is broken")
        return original(self, request)

    settings = small(True)
    with monkeypatch.context() as patch:
        patch.setattr(SparseHFLM, "_ask", ask)
        assert run(settings) == 1
    (line,) = errors(capsys)
    assert "this row is broken" in line and asked[1] in line
    samples = cells_of(settings.out)[0].samples
    assert [one.uid for one in samples if one.error is not None] == [asked[1]]
    assert len(samples) == 5
    assert run(settings) == 0
    assert not any(one.error for one in cells_of(settings.out)[0].samples)


def test_an_error_of_a_group_alone_is_said(small, monkeypatch):
    original = Samples._score

    def score(self, rows):
        if len(rows) > 1:
            raise ValueError("these rows do not go together")
        return original(self, rows)

    settings = small(True)
    monkeypatch.setattr(Samples, "_score", score)
    with pytest.warns(UserWarning, match=r"decode_together=3\): .*do not go together"):
        assert run(settings) == 0
    assert not any(one.error for one in cells_of(settings.out)[0].samples)
