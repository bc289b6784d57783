"""RR's selection on the GPU against its PyTorch twins: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.blocks import causal_map
from method.density import check_causal
from method.keep import RR_KEEP, KeepPolicy
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p import triton as select_triton
from method.ops.top_p.torch import SELECTORS, select_blocks
from method.ops.top_p.triton import select_blocks_triton
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.products import few_of

pytestmark = pytest.mark.interpreter

SINK_ONLY = KeepPolicy(sink=True, diagonal=False, last_row=False)


def random_scores(lengths: tuple[int, int], heads: int, power: float, device: str, seed: int = 0):
    """Scores that a few blocks dominate; what lies above the diagonal is poison for the kernel."""
    generator = torch.Generator().manual_seed(seed)
    visible = causal_map(*lengths)
    drawn = torch.rand(2, heads, *visible.shape, generator=generator) ** power
    truth = (drawn * visible).to(device)
    return truth, torch.where(visible, drawn, torch.nan).to(device)


ROWS = [
    pytest.param((1000, 1000), 6.0, NO_KEEP, id="square"),
    pytest.param((257, 1400), 30.0, SINK_ONLY, id="ragged"),
    pytest.param((1500, 1500), 2.0, RR_KEEP, id="even"),
]


@few_of(
    {"tau": [1e-6, 0.5, 0.95, 0.9999, 1.0], "selector": SELECTORS, "lengths,power,keep": ROWS}, rows=15
)
def test_selection_is_the_twins(tau, selector, lengths, power, keep, kernel_device, poisoned):
    truth, scores = random_scores(lengths, 2, power, kernel_device)
    options = {"tau": tau, "selector": selector, "keep": keep}
    mask = select_blocks_triton(scores, *lengths, **options)
    check_causal(mask)
    assert torch.equal(mask.to_map(), select_blocks(truth, *lengths, **options))


@few_of(
    {
        "lengths,keep": [
            pytest.param((1000, 1000), RR_KEEP, id="square"),
            pytest.param((300, 700), NO_KEEP, id="ragged"),
            pytest.param((129, 385), SINK_ONLY, id="short"),
        ],
        "first": [1, 4],
    },
    rows=4,
)
def test_rows_of_the_first_chunk(lengths, keep, first, kernel_device, poisoned):
    truth, scores = random_scores(lengths, 2, 5.0, kernel_device, first)
    options = {"tau": 0.8, "selector": "released", "keep": keep, "released_rows": first}
    mask = select_blocks_triton(scores, *lengths, **options)
    check_causal(mask)
    assert torch.equal(mask.to_map(), select_blocks(truth, *lengths, **options))


@pytest.mark.parametrize("lengths", [(4000, 4000), (1500, 5003), (300, 4096)], ids=str)
def test_longer_rows_go_to_wider_kernels(lengths, kernel_device, poisoned, monkeypatch):
    monkeypatch.setattr(select_triton, "_NARROWEST", 16)
    truth, scores = random_scores(lengths, 1, 4.0, kernel_device)
    options = {"tau": 0.9, "selector": "released", "keep": RR_KEEP}
    mask = select_blocks_triton(scores, *lengths, **options)
    assert torch.equal(mask.to_map(), select_blocks(truth, *lengths, **options))


@few_of(
    {
        "tau": [0.25, 0.5, 0.75, 0.999],
        "selector": SELECTORS,
        "keep": [pytest.param(NO_KEEP, id="none"), pytest.param(RR_KEEP, id="rr")],
    },
    rows=6,
)
def test_ties_zeros_and_equal_rows(tau, selector, keep, kernel_device, poisoned):
    lengths = (1024, 1024)
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 4, (1, 6, 8, 8), generator=generator).float()
    levels[:, 4], levels[:, 5] = 1.0, 0.0
    scores = (levels * causal_map(*lengths)).to(kernel_device)
    options = {"tau": tau, "selector": selector, "keep": keep}
    mask = select_blocks_triton(scores, *lengths, **options)
    assert torch.equal(mask.to_map(), select_blocks(scores, *lengths, **options))


def test_a_tau_for_every_head(kernel_device, poisoned):
    truth, scores = random_scores((1000, 1000), 3, 4.0, kernel_device)
    options = {"tau": [0.3, 1.0, 0.8], "selector": "released", "keep": NO_KEEP}
    mask = select_blocks_triton(scores, 1000, 1000, **options)
    assert torch.equal(mask.to_map(), select_blocks(truth, 1000, 1000, **options))


@few_of({"selector": SELECTORS, "option": [{}, {"offset": "head_layer", "layer": 3}, {"offset": 5}]})
def test_mask_is_the_twins(option, selector, kernel_device, poisoned):
    query, key, _ = tensors(Case(1000, 1000, group=4, batch=2), device=kernel_device)
    scores = block_scores(query, key, scale=0.25, stride=8, **option)
    rest = {"tau": 0.8, "selector": selector, "keep": RR_KEEP}
    truth = select_blocks(scores, 1000, 1000, **rest)
    scores = block_scores_triton(query, key, scale=0.25, stride=8, **option)
    mask = select_blocks_triton(scores, 1000, 1000, **rest)
    check_causal(mask)
    assert torch.equal(mask.to_map(), truth)


def test_bad_scores_are_refused(kernel_device):
    scores = torch.zeros(1, 1, 8, 8, device=kernel_device)
    options = {"tau": 0.5, "selector": "released", "keep": RR_KEEP}
    with pytest.raises(ValueError, match="do not fit q_len=2000"):
        select_blocks_triton(scores, 2000, 2000, **options)
    with pytest.raises(ValueError, match="contiguous float32"):
        select_blocks_triton(scores.double(), 1024, 1024, **options)
