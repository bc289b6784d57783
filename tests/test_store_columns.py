"""Samples by column say what the records say, and never take a line that a record would refuse."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rr_bench.store.columns import Columns, StoredSamples, columns_of, read_columns
from rr_bench.store.jsonl import StoreError
from rr_bench.store.reading import read_cell
from rr_bench.store.records import RecordError, SampleRecord, read_line, sample_line
from rr_bench.store.seal import sealed_line
from tests.fabricate import RR, open_cell, record
from tests.mutations import mutated

KEY = "a" * 12


def line_of(content: dict[str, Any]) -> bytes:
    """A line of this content, with the checksum that fits."""
    return sealed_line(json.dumps(content)).encode("utf-8", "surrogatepass")


def content_of(sample: SampleRecord) -> dict[str, Any]:
    return {"cell": KEY} | asdict(sample)


def told(columns: Columns) -> dict[str, Any]:
    """Columns as plain values, NaN as text."""
    found = {field.name: getattr(columns, field.name) for field in fields(columns)}
    return found | {
        name: str(one.tolist()) for name, one in found.items() if isinstance(one, np.ndarray)
    }


SAMPLES = [
    record("0", 0.5, density_by_layer=[0.25, 0.75], output="MARK", labels={"domain": "a"}),
    record("1", None, density_by_layer=[0.0, 1.0], prefill_s=None, density=None),
    record("2", 1.0, density_by_layer=[0.5, 0.5], answered=True, cluster="a", decode_s=0.5),
]


def test_columns_say_what_the_records_say() -> None:
    read = read_columns([sample_line(one, KEY).encode() for one in SAMPLES], KEY, {})
    assert read is not None and read[1] == [0, 1, 2]
    found = read[0]
    assert told(found) == told(columns_of(SAMPLES)) and "MARK" not in str(told(found))
    assert found.by_layer is not None and found.by_layer.tolist() == [0.375, 0.625]
    assert found.labels == {"domain"} and found.seconds() == [1.5, 2.0]


def test_lines_of_before_a_field_was_added_are_read() -> None:
    content = content_of(SAMPLES[0])
    for name in ("prompt_tail", "decode_s", "error"):
        del content[name]
    read = read_columns([line_of(content)], KEY, {})
    assert read is not None and read[0].seconds() == [1.5] and read[0].error == (None,)


def test_no_line_is_taken_that_a_record_would_refuse() -> None:
    """Random changes, each with the checksum that fits: a forged line, or a fault in what wrote it."""
    rng, taken = random.Random(1), 0
    for number in range(600):
        content = content_of(SAMPLES[number % 3])
        name = rng.choice(list(content))
        content[name] = mutated(content[name], rng)
        line = line_of(content)
        found = read_columns([line, sample_line(record("other", 1.0), KEY).encode()], KEY, {})
        try:
            _, single = read_line(line.decode("utf-8", "surrogatepass"), "here:1", KEY)
        except RecordError:
            assert found is None, content
            continue
        if found is not None and single.uid != "other":
            taken += 1
            assert told(found[0]) == told(columns_of([single, record("other", 1.0)])), content
    assert taken > 60


@pytest.mark.parametrize(
    "change", [{"cell": "b" * 12}, {"schema": 1}, {"schema": 2.0}, {"more": 1}, {"score": None}]
)
def test_what_lines_must_hold_as_a_whole(change: dict[str, Any]) -> None:
    assert read_columns([line_of(content_of(SAMPLES[0]) | change)], KEY, {}) is None
    lines = [sample_line(one, KEY).encode() for one in SAMPLES]
    assert read_columns([lines[0], lines[1][:-1] + b" }"], KEY, {}) is None
    assert read_columns([lines[0], lines[0]], KEY, {}) is None  # scored twice


def test_a_sample_that_was_tried_again_counts_once(tmp_path: Path) -> None:
    with open_cell(tmp_path, RR) as cell:
        for one in (record("0", None), record("1", 1.0), record("0", 0.5)):
            cell.append(one)
        cell.finish(2)
    stored = read_cell(cell.folder)
    assert isinstance(stored.samples, StoredSamples)
    assert stored.samples == [record("0", 0.5), record("1", 1.0)] and stored.scored == ("0", "1")
    assert stored.columns.score.tolist() == [0.5, 1.0]


def test_records_are_read_from_the_file_when_they_are_asked_for(tmp_path: Path) -> None:
    with open_cell(tmp_path, RR) as cell:
        for one in SAMPLES:
            cell.append(one)
    stored = read_cell(cell.folder)
    assert stored.samples[-1] == SAMPLES[2] and stored.samples[:2] == SAMPLES[:2]
    path = cell.folder / "samples.jsonl"
    path.write_bytes(path.read_bytes().replace(b"MARK", b"LESS"))
    assert stored.samples[1] == SAMPLES[1]
    with pytest.raises(StoreError, match=r"checksum.*changed while it was read"):
        stored.samples[0]
