"""Records: what a line or a cell's description may hold, and how an edit is noticed."""

from __future__ import annotations

import json

import pytest

from rr_bench.store.records import (
    CellInfo,
    RecordError,
    SampleRecord,
    from_json,
    read_line,
    sample_line,
    to_json,
)
from rr_bench.store.seal import checksum, unsealed
from tests.fabricate import FULL, record, settings


def nested(levels: int) -> list:
    """A list in a list in a list."""
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_field": 1}, "unknown field extra_field"),
        ({"uid": None}, "missing field uid"),
        ({"schema": 1}, "schema 1, this version reads schema 2"),
        ({"length": "4096"}, "field length must be int"),
        ({"truncated": 1}, "field truncated must be bool"),
        ({"kernels": [1]}, r"field kernels must be list\[str\]"),
        ({"density": float("nan")}, r"not JSON \(NaN"),
        ({"score": 1.5}, "score=1.5 lies outside 0..1"),
        ({"density": 1.1}, "density=1.1 lies outside 0..1"),
        ({"density_by_layer": [0.5, -0.1]}, r"density_by_layer=.* lies outside 0..1"),
        ({"input_tokens": -1}, "input_tokens=-1 lies outside"),
        ({"prefill_s": -0.5}, "prefill_s=-0.5 lies outside"),
        ({"input_tokens": 10**400}, "input_tokens=1000"),
        ({"output": "\ud800"}, "field output must be str"),
        ({"golds": ["\ud800"]}, r"field golds must be list\[Any\]"),
        ({"golds": [nested(500)]}, r"field golds must be list\[Any\], got something deeply nested"),
        ({"error": "boom"}, "either a score or an error"),
    ],
)
def test_record_is_checked_on_read(change: dict, message: str) -> None:
    data = unsealed(json.loads(to_json(record("0", 1.0)))) | change
    data = {name: value for name, value in data.items() if not (name == "uid" and value is None)}
    with pytest.raises(RecordError, match=f"^here:7: .*{message}"):
        from_json(SampleRecord, json.dumps(data), "here:7")


def test_cell_info_needs_its_parts() -> None:
    info = {"key": "k", "label": "l", "model": {"name": "m"}, "method": FULL, "settings": settings()}
    with pytest.raises(RecordError, match=r"model\.path must be a str"):
        from_json(CellInfo, json.dumps(info | {"schema": 2}), "cell.json")


def test_a_line_names_its_cell_and_notices_an_edit() -> None:
    line = sample_line(record("0", 0.5), "a" * 12)
    assert read_line(line, "here:1") == ("a" * 12, record("0", 0.5))
    with pytest.raises(RecordError, match=r"here:1: .*checksum"):
        read_line(line.replace('"score": 0.5', '"score": 0.6'), "here:1")
    with pytest.raises(RecordError, match=r"belongs to cell a+, not b+"):
        read_line(line, "here:1", "b" * 12)


def test_lines_with_a_checksum_of_their_content_are_read() -> None:
    data = {"cell": "a" * 12, **unsealed(json.loads(to_json(record("0", 0.5))))}
    line = json.dumps(data | {"check": checksum(data)})
    assert read_line(line, "here:1") == ("a" * 12, record("0", 0.5))
    with pytest.raises(RecordError, match="checksum"):
        read_line(line.replace("0.5", "0.6"), "here:1")
