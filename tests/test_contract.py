"""What every method must do, whatever its rule: run over every YAML in conf/method."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from method.base import Method
from method.blocks import causal_map
from method.density import check_causal, density_by_head
from method.keep import EQUAL_KEEP, KeepPolicy
from tests.attention_cases import NO_KEEP, Case, tensors

CONFIGS = sorted((Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))
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


def build(config: Path, **overrides: Any) -> Method:
    fields = yaml.safe_load(config.read_text())
    module, _, name = fields.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**{**fields, **overrides})


def choose(method: Method, case: Case, keep: KeepPolicy, seed: int = 0):
    query, key, _ = tensors(case, seed=seed)
    return method.select(query, key, scale=case.dim**-0.5, layer=0, keep=keep)


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
    grouped = method.select(query, key, scale=0.125, layer=0, keep=EQUAL_KEEP)
    repeated = method.select(
        query, key.repeat_interleave(case.group, 1), scale=0.125, layer=0, keep=EQUAL_KEEP
    )
    assert torch.equal(grouped.to_map(), repeated.to_map())


def test_batch_items_do_not_influence_each_other(config):
    case = CASES[4]
    query, key, _ = tensors(case)
    method = build(config)
    both = method.select(query, key, scale=0.125, layer=0, keep=EQUAL_KEEP).to_map()
    alone = method.select(query[1:], key[1:], scale=0.125, layer=0, keep=EQUAL_KEEP).to_map()
    assert torch.equal(both[1:], alone)


def test_memory_layout_does_not_matter(config):
    query, key, _ = tensors(CASES[4])
    method = build(config)
    strided = method.select(query, key, scale=0.125, layer=0, keep=EQUAL_KEEP)
    packed = method.select(query.contiguous(), key, scale=0.125, layer=0, keep=EQUAL_KEEP)
    assert torch.equal(strided.to_map(), packed.to_map())


@pytest.mark.parametrize("case", [CASES[4], CASES[6]], ids=str)
def test_tau_one_is_dense_and_more_tau_keeps_more(config, case):
    if not hasattr(build(config), "tau"):
        pytest.skip(f"{config.stem} has no tau")
    dense = choose(build(config, tau=1.0), case, NO_KEEP)
    assert torch.equal(
        dense.to_map(), causal_map(case.q_len, case.k_len).expand(case.batch, case.heads, -1, -1)
    )
    kept = [choose(build(config, tau=tau), case, EQUAL_KEEP).to_map() for tau in (0.2, 0.5, 0.9, 1.0)]
    for less, more in itertools.pairwise(kept):
        assert not bool((less & ~more).any())
    assert int(kept[0].sum()) < int(kept[-1].sum())
