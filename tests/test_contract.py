"""What every method must do, whatever its rule: run over every YAML in conf/method."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from method.attention import SparsePrefill
from method.base import Method
from method.blocks import causal_map, visible_blocks
from method.density import check_causal, density_by_head
from method.keep import EQUAL_KEEP, KeepPolicy
from method.ops.block_sparse.reference import reference_attention
from method.ops.dense import dense_prefill
from rr_bench.config.registry import MethodSpec, expand_method
from tests.attention_cases import NO_KEEP, Case, tensors

CONFIGS = sorted((Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))
LATE = 99
"""A layer that no method treats as an early one."""

CASES = [
    Case(1, 1, group=4),
    Case(127, 127, group=7),
    Case(128, 128, group=1),
    Case(129, 129, group=8),
    Case(1000, 1000, group=4, kv_heads=2, batch=2),
    Case(256, 512, group=4),
    Case(257, 700, group=3),
    Case(1, 300, group=2),
]


def spec(config: Path) -> MethodSpec:
    return expand_method(config.stem, config.parents[1])[0]


def build(config: Path, **overrides: Any) -> Method:
    return spec(config).build(**overrides)


def choose(method: Method, case: Case, keep: KeepPolicy, seed: int = 0):
    query, key, _ = tensors(case, seed=seed)
    return method.select(query, key, scale=case.dim**-0.5, layer=LATE, keep=keep)


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request) -> Path:
    return request.param


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("keep", [EQUAL_KEEP, NO_KEEP], ids=["equal", "none"])
def test_masks_are_causal_and_keep_what_they_must(config, case, keep):
    mask = choose(build(config), case, keep)
    assert (mask.q_len, mask.k_len) == (case.q_len, case.k_len)
    assert mask.counts.shape[:2] == (case.batch, case.heads)
    check_causal(mask)
    forced = keep.forced(case.q_len, case.k_len)
    assert not bool((forced & ~mask.to_map()).any())
    assert bool((density_by_head(mask) <= 1).all())


def test_the_paper_policy_is_declared(config):
    assert isinstance(build(config).paper_keep, KeepPolicy)


def test_selection_is_deterministic(config):
    case = CASES[4]
    first, second = (choose(build(config), case, EQUAL_KEEP).to_map() for _ in range(2))
    assert torch.equal(first, second)


def test_kv_heads_may_be_repeated_or_not(config):
    case = CASES[4]
    query, key, _ = tensors(case)
    method = build(config)
    grouped = method.select(query, key, scale=0.125, layer=LATE, keep=EQUAL_KEEP)
    repeated = method.select(
        query, key.repeat_interleave(case.group, 1), scale=0.125, layer=LATE, keep=EQUAL_KEEP
    )
    assert torch.equal(grouped.to_map(), repeated.to_map())


def test_batch_items_do_not_influence_each_other(config):
    case = CASES[4]
    query, key, _ = tensors(case)
    method = build(config)
    both = method.select(query, key, scale=0.125, layer=LATE, keep=EQUAL_KEEP).to_map()
    alone = method.select(query[1:], key[1:], scale=0.125, layer=LATE, keep=EQUAL_KEEP).to_map()
    assert torch.equal(both[1:], alone)


def test_memory_layout_does_not_matter(config):
    query, key, _ = tensors(CASES[4])
    method = build(config)
    strided = method.select(query, key, scale=0.125, layer=LATE, keep=EQUAL_KEEP)
    packed = method.select(query.contiguous(), key, scale=0.125, layer=LATE, keep=EQUAL_KEEP)
    assert torch.equal(strided.to_map(), packed.to_map())


def knob_values(method: Method) -> list[float]:
    """Settings of the method's knob, from its sparsest to its densest."""
    assert method.knob is not None
    low, high = method.knob.low, method.knob.high
    inner = (
        [low + (high - low) * at for at in (0.2, 0.5, 0.9)]
        if max(low, high) == 1
        else [10 * low, 100 * low, 1000 * low]
    )
    return [type(value)(value) for value in (low, *inner, high)]


@pytest.mark.parametrize("case", [Case(2304, 2304, group=2), Case(257, 2500, group=3)], ids=str)
def test_more_of_the_knob_keeps_more_and_all_of_it_everything(config, case):
    method = build(config)
    if method.knob is None:
        assert method.dense, f"{config.stem} has no knob: nothing to calibrate it by"
        return
    assert method.knob.name in spec(config).params
    kept = [
        choose(build(config, **{method.knob.name: value}), case, NO_KEEP).to_map()
        for value in knob_values(method)
    ]
    for less, more in itertools.pairwise(kept):
        assert not bool((less & ~more).any())
    assert int(kept[0].sum()) < int(kept[-1].sum())
    causal = causal_map(case.q_len, case.k_len).expand(case.batch, case.heads, -1, -1)
    assert torch.equal(kept[-1], causal)


@pytest.mark.parametrize("case", [Case(300, 300, group=2), Case(200, 333, group=3)], ids=str)
def test_all_of_the_knob_is_dense_attention(config, case):
    method = build(config)
    if method.knob is not None:
        method = build(config, **{method.knob.name: method.knob.high})
    query, key, value = tensors(case)
    result = SparsePrefill(method, NO_KEEP)(query, key, value, scale=0.125, layer=LATE)
    truth, _ = dense_prefill(query, key, value, scale=0.125)
    torch.testing.assert_close(result.output, truth, atol=1e-5, rtol=1e-4)
    assert result.density.shape == (case.batch, case.heads)
    assert bool((result.density <= 1).all())


def test_the_diagonal_is_kept_under_the_papers_own_policy(config):
    method = build(config)
    for case in CASES:
        kept = choose(method, case, method.paper_keep).to_map()
        newest = (visible_blocks(case.q_len, case.k_len) - 1).expand(case.batch, case.heads, -1)
        assert bool(kept.gather(-1, newest[..., None]).all()), str(case)


def test_what_comes_later_changes_nothing_before_it(config):
    method = build(config)
    if not method.causal_choice:
        pytest.skip(f"{config.stem} judges a prompt by its last queries")
    keep = KeepPolicy(sink=True, diagonal=True, last_row=False)
    query, key, _ = (x.double() for x in tensors(Case(1664, 1664, group=2)))
    whole = method.select(query, key, scale=0.3, layer=LATE, keep=keep).to_map()
    rows = []
    for start, end in ((0, 640), (640, 1280), (1280, 1664)):
        part = method.select(
            query[:, :, start:end], key[:, :, :end], scale=0.3, layer=LATE, keep=keep
        ).to_map()
        rows.append(torch.nn.functional.pad(part, (0, whole.shape[-1] - part.shape[-1])))
    assert torch.equal(torch.cat(rows, dim=2), whole)


@pytest.mark.parametrize("seed", range(6))
def test_any_shape_gives_a_causal_mask_and_exact_attention(config, seed):
    rng = random.Random(seed)
    k_len = rng.randint(1, 1500)
    q_len = k_len if rng.random() < 0.5 else rng.randint(1, k_len)
    case = Case(q_len, k_len, group=rng.choice([1, 3, 4]), dim=rng.choice([16, 64, 80]), batch=2)
    method = build(config)
    query, key, value = tensors(case, seed=seed)
    for keep in (NO_KEEP, method.paper_keep, EQUAL_KEEP):
        mask = method.select(query, key, scale=0.3, layer=LATE, keep=keep)
        check_causal(mask)
        assert not bool((keep.forced(q_len, k_len) & ~mask.to_map()).any())
    result = SparsePrefill(method, EQUAL_KEEP)(query, key, value, scale=0.3, layer=LATE)
    assert bool(result.output.isfinite().all()) and bool((result.density <= 1).all())
    if result.kernel == "torch":
        truth, _ = reference_attention(query, key, value, mask, scale=0.3)
        torch.testing.assert_close(result.output, truth, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case", [Case(2500, 2500, group=4, dim=128, kv_heads=2), Case(300, 2000)], ids=str
)
def test_a_gpu_chooses_as_the_twins_do(config, case, dtype):
    method = build(config)
    query, key, value = tensors(case, dtype, "cuda")
    options = {"scale": 0.3, "layer": LATE, "keep": EQUAL_KEEP}
    on_gpu = method.select(query, key, **options)
    check_causal(on_gpu)
    twin = method.select(query.cpu().float(), key.cpu().float(), **options).to_map()
    # Rounding moves blocks whose score lies at the threshold.
    different = (on_gpu.to_map().cpu() != twin).sum() / twin.sum()
    assert float(different) < (0.002 if dtype == torch.float32 else 0.02)
    result = SparsePrefill(method, EQUAL_KEEP)(query, key, value, scale=0.3, layer=LATE)
    assert result.output.is_cuda and bool(result.output.isfinite().all())
