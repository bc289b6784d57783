from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from method.density import density_by_head
from rr_bench.latency import tune
from rr_bench.latency.cases import (
    Shape,
    attention_flops,
    dense_flops,
    list_bytes,
    random_inputs,
    random_mask,
)
from rr_bench.latency.timing import summarise

CPU = torch.device("cpu")
WORKER = """
import json, os, sys, time
for name in sys.argv[sys.argv.index("--names") + 1:]:
    print(json.dumps({"begin": name}), flush=True)
    if name == "crash":
        print("boom", file=sys.stderr, flush=True)
        os._exit(7)
    if name == "hang":
        time.sleep(60)
    print(json.dumps({"variant": name, "median_ms": 1.0}), flush=True)
"""


def test_summary_of_times():
    timing = summarise([5.0, 1.0, 2.0, 4.0, 3.0, 100.0])
    assert (timing.median_ms, timing.p20_ms, timing.p80_ms, timing.n) == (3.5, 2.0, 5.0, 6)
    assert summarise([7.0]).p80_ms == 7.0


def test_inputs_have_the_strides_of_a_model():
    query, key, value = random_inputs(Shape(300, 4, 2, 64, torch.float32), CPU)
    assert query.shape == (1, 4, 300, 64) and not query.is_contiguous()
    assert key.shape == value.shape == (1, 2, 300, 64) and key.is_contiguous()
    assert not torch.equal(key, value)


@pytest.mark.parametrize("density", [1.0, 0.5, 0.2])
def test_masks_have_the_density_asked_for(density):
    mask = random_mask(Shape(8192, 4), density, CPU)
    assert density_by_head(mask).mean().item() == pytest.approx(density, abs=0.02)
    assert mask.counts[0, 0, -1] == 64


def test_short_masks_are_kept_whole():
    assert density_by_head(random_mask(Shape(129, 2), 0.2, CPU)).min() == 1


def test_a_full_mask_costs_what_dense_attention_costs():
    shape = Shape(4096, 4)
    flops = attention_flops(random_mask(shape, 1.0, CPU), shape.dim)
    assert flops == pytest.approx(dense_flops(shape), rel=1e-6)
    half = attention_flops(random_mask(shape, 0.5, CPU), shape.dim)
    assert half == pytest.approx(flops / 2, rel=0.05)


def test_bytes_of_the_lists():
    mask = random_mask(Shape(1000, 4), 1.0, CPU)
    assert list_bytes(Shape(1000, 4)) == 4 * (mask.indices.numel() + mask.counts.numel())


def test_a_crash_or_a_hang_costs_a_line(tmp_path, monkeypatch):
    real = subprocess.Popen

    def start(command, **options):
        return real([sys.executable, "-c", WORKER, *command[3:]], **options)

    monkeypatch.setattr(tune.subprocess, "Popen", start)
    monkeypatch.setattr(tune, "PATIENCE_S", 1)
    out = tmp_path / "tune.jsonl"
    tune.supervise("attention", ["a", "crash", "b", "hang", "c"], [1024], out, seconds=60)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["a", "crash", "b", "hang", "c"]
    assert lines[1]["failed"] == "boom" and lines[3]["failed"] == "hung or out of time"
    assert all("failed" not in lines[i] for i in (0, 2, 4))
