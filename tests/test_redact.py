"""Nothing of the machine in stored text."""

from __future__ import annotations

from pathlib import Path

import pytest

from rr_bench import ROOT
from rr_bench.store.redact import redact, stored_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.path=/no/such/model does not load", "model.path=…/model does not load"),
        (f"{ROOT}/results/x/samples.jsonl:3: bad", "results/x/samples.jsonl:3: bad"),
        (f"{Path.home()}/models/llama: gone", "…/llama: gone"),
        ("see https://a.org/b/c: 3 tokens/s and/or x", "see https://a.org/b/c: 3 tokens/s and/or x"),
    ],
)
def test_absolute_paths_are_shortened(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_stored_paths(tmp_path: Path) -> None:
    assert stored_path(ROOT / "rr_bench/probe/model") == "rr_bench/probe/model"
    assert stored_path(tmp_path / "llama") == "llama"
