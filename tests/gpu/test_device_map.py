"""A model spread over two GPUs: the answers and densities of the same model on one.

``pytest -s tests/gpu/test_device_map.py`` prints seconds of both, and of two workers beside one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from rr_bench import ROOT
from tests.tiny import tiny_llama, tiny_qwen3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

METHODS = (
    "methods=[full,{name: rr, tau: 0.5},{name: xattention, tau: 0.5},flexprefill,"
    "{name: minference, vertical_size: 30, slash_size: 200},minference_native,{name: oracle, tau: 0.5}]"
)
LAYERS = 6


@pytest.fixture(scope="module", params=[tiny_llama, tiny_qwen3], ids=["llama", "qwen3"])
def model(request, tmp_path_factory) -> Path:
    return request.param(tmp_path_factory.mktemp("model") / "tiny", num_hidden_layers=LAYERS)


def bench(out: Path, model: Path, *changes: str) -> tuple[pd.DataFrame, float]:
    """One run in a process of its own: its table and its seconds."""
    command = [sys.executable, "-m", "rr_bench", f"model={model}", "model.name=tiny", f"out={out}"]
    command += [METHODS, "tasks=[recall_prefill,json_kv]", "lengths=[4096]", "samples=2"]
    start = time.perf_counter()
    done = subprocess.run([*command, *changes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return pd.read_csv(out / "summary.csv"), time.perf_counter() - start


def answers(out: Path) -> dict[tuple[str, str], tuple[str, list[float]]]:
    """Output and densities of every sample, by cell and uid."""
    found = {}
    for file in out.glob("cells/*/samples.jsonl"):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            assert record["error"] is None
            found[file.parent.name, record["uid"]] = record["output"], record["density_by_layer"]
    return found


# Decoded alike: a captured step and generate may break a tie in another way.
SAME = ("decode=generate", "dtype=float32", "backend=triton")


@pytest.fixture(scope="module")
def alone(model, tmp_path_factory) -> tuple[Path, float]:
    """The store of one GPU, and its seconds."""
    out = tmp_path_factory.mktemp("out") / "one"
    return out, bench(out, model, *SAME)[1]


@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_a_spread_model_answers_as_on_one_gpu(model, alone, tmp_path, device_map):
    _, spread_s = bench(tmp_path / "two", model, *SAME, f"model.device_map={device_map}")
    one, two = answers(alone[0]), answers(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 7 * 2 * 2
    for sample, (output, density) in one.items():
        assert two[sample][0] == output, sample
        assert two[sample][1] == pytest.approx(density), sample
    layers = [
        json.loads(file.read_text()).get("layers")
        for file in (tmp_path / "two").glob("cells/*/env.json")
    ]
    assert len({str(one) for one in layers}) == 1
    if device_map != "sequential":  # that one fills the first GPU, where a small model fits
        assert set(layers[0]) == {"cuda:0", "cuda:1"}
    print(f"\n{device_map}: one GPU {alone[1]:.1f} s, spread {spread_s:.1f} s, {layers[0]}")


def test_the_kernels_of_this_gpu_run_on_both(model, tmp_path):
    """In bfloat16 with the default back end, which is the Hopper kernel where it can be."""
    table, _ = bench(tmp_path / "two", model, "dtype=bfloat16", "model.device_map=balanced")
    assert len(table) == 7 * 2 and (table["n"] == 2).all()


def test_a_captured_step_is_refused_by_name(model, tmp_path):
    command = [sys.executable, "-m", "rr_bench", f"model={model}", f"out={tmp_path}", "samples=1"]
    command += ["decode=graph", "model.device_map=balanced", "tasks=[json_kv]", "lengths=[2048]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "decode=graph cannot be had, the model is spread over several GPUs" in done.stderr


def test_two_workers_over_two_gpus_share_one_store_and_one_bar(tmp_path):
    model = tiny_llama(tmp_path / "model")
    alone, alone_s = bench(tmp_path / "one", model, "samples=40")
    shared, shared_s = bench(tmp_path / "two", model, "samples=40", "workers=2")
    pd.testing.assert_frame_equal(
        shared.drop(columns="prefill_s"), alone.drop(columns="prefill_s"), rtol=1e-6
    )
    print(f"\nworkers: one process {alone_s:.1f} s, two on two GPUs {shared_s:.1f} s")
