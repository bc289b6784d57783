"""From how many tokens on a sparse prefill pays: measured, written, read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rr_bench.config.errors import ConfigError
from rr_bench.config.registry import expand_method
from rr_bench.plan.cells import make_plan
from rr_bench.plan.dense_below import attention_shape, record_crossovers
from rr_bench.plan.device import resolve_device
from rr_bench.plan.model_facts import read_config
from rr_bench.store.crossover import crossovers
from rr_bench.store.latency_table import Row

LENGTHS = (4096, 8192, 16384)


def rows(method: str, times: tuple[float, ...], **changes) -> list[Row]:
    row = Row("both", "m", "captured", method, "k", None, status="done")
    cases = zip(LENGTHS, times, strict=True)
    return [replace(row, length=length, median_ms=time, **changes) for length, time in cases]


DENSE = [*rows("full", (2.0, 4.0, 9.0), backend="a"), *rows("full", (3.0, 3.5, 8.0), backend="b")]


@pytest.mark.parametrize(
    ("times", "tokens"),
    [
        ((2.0, 3.5, 8.0), 4096),  # as fast counts
        ((2.1, 3.4, 7.0), 8192),
        ((1.9, 3.6, 7.0), 16384),  # slower in between: only what lies above
        ((1.0, 1.0, 8.1), 16385),  # slower at the longest: dense as far as was measured
    ],
)
def test_every_longer_prompt_passes_against_the_strongest_dense(times, tokens):
    assert crossovers([*DENSE, *rows("rr", times)], "m") == {"rr": tokens}


def test_only_the_models_own_inputs_and_finished_rows_count():
    others = [*rows("rr", (1.0, 1.0, 1.0), model="llama"), *rows("rr", (1.0, 1.0, 1.0), level="layer")]
    failed = rows("rr", (1.0, 1.0, 1.0), status="failed")
    assert crossovers([*DENSE, *others, *failed], "m") == {}


def test_a_run_reads_what_was_written_for_its_method_and_shape(make, checkpoint, tmp_path):
    config, device = read_config(checkpoint), resolve_device("cpu")
    (spec,) = expand_method("rr")
    settings = make(methods=["full", "rr"], dense_below="auto", crossover=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no crossover-cpu-2x1x64\.json in crossover=.*latency"):
        make_plan(settings)
    measured = rows(spec.label, (2.1, 3.4, 7.0))
    record_crossovers(tmp_path, "m", config, device, [*DENSE, *measured])
    assert (tmp_path / attention_shape(config, device).file).is_file()
    full, rr = make_plan(settings).cells
    assert "dense_below" not in full.settings and rr.settings["dense_below"] == 8192
    assert make_plan(make(methods=["rr"], dense_below=8192)).cells[0].settings == rr.settings
    with pytest.raises(ConfigError, match=r"knows no streaming.*dense_below a number"):
        make_plan(replace(settings, methods=["streaming"]))
