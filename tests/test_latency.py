"""What is timed, and the timing of it: inputs, masks, their work, the loop."""

from __future__ import annotations

import pytest
import torch

from method.density import density_by_head
from rr_bench.latency.clock import summarise
from rr_bench.latency.inputs import Shape, attention_flops, dense_flops, random_inputs, random_mask

CPU = torch.device("cpu")


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
