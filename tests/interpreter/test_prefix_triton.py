"""Highest entries without sorting, against sorting: on a GPU, or through the interpreter."""

from __future__ import annotations

import pytest
import torch

from method.ops.top_p.prefix import find_prefix, sizes_of
from method.ops.vertical_slash.selection import take_highest, tokens_within
from tests.products import few_of

pytestmark = pytest.mark.interpreter


def drawn(kind: str, size: int, lists: int = 2) -> torch.Tensor:
    """Lists that sum to 1: spread evenly, peaked, of a few levels, with zeros, or all in one entry."""
    generator = torch.Generator().manual_seed(size)
    values = torch.rand(lists, size, generator=generator)
    if kind == "peaked":
        values = values**40
    if kind == "levels":
        values = torch.randint(1, 4, (lists, size), generator=generator).float()
    if kind == "zeros":
        values *= torch.rand(lists, size, generator=generator) < 0.1
        values[:, -1] = 1.0
    if kind == "one":
        values.zero_()
        values[:, size // 2] = 1.0
    return values / values.sum(-1, keepdim=True)


@few_of({"kind": ["even", "peaked", "levels", "zeros", "one"], "size": [1, 4096, 5000]})
def test_counts_by_mass_are_those_of_a_sort(kind, size, kernel_device, poisoned):
    values = drawn(kind, size).to(kernel_device)
    for share in (0.5, 0.9999):
        wanted = tokens_within(values, share, triton=False)
        assert torch.equal(tokens_within(values, share, triton=True), wanted), share


@few_of({"kind": ["even", "levels", "zeros", "one"], "size": [1, 100, 5000]})
def test_the_highest_are_those_of_a_stable_sort(kind, size, kernel_device, poisoned):
    values = drawn(kind, size).to(kernel_device)
    values[:, : size // 50] = 1000.0 - torch.arange(size // 50, device=kernel_device)
    values[0, 0] = torch.inf
    for counts in ([0, size // 3], [size - 1, 2 * size]):
        wanted = torch.tensor(counts, device=kernel_device)
        kept = take_highest(values, wanted, triton=True)
        assert torch.equal(kept, take_highest(values, wanted)), counts


def test_sizes_may_differ_along_the_last_lists_only(kernel_device, poisoned):
    values = torch.stack([drawn("even", 300, 3), drawn("levels", 300, 3)]).to(kernel_device)
    counts = torch.tensor([5.0, 17, 250], device=kernel_device)
    assert torch.equal(take_highest(values, counts, triton=True), take_highest(values, counts))


def test_entries_within_a_limit(kernel_device, poisoned):
    values = drawn("levels", 5000, 3).to(kernel_device)
    limit = torch.tensor([0.0, 0.31, 0.999], dtype=torch.float64, device=kernel_device)
    ranked, order = values.double().sort(dim=-1, descending=True, stable=True)
    fits = ranked.cumsum(-1) <= limit[:, None]
    found = find_prefix(values, limit, count=False)
    assert torch.equal(found.keep(), torch.zeros_like(fits).scatter_(-1, order, fits))
    assert torch.equal(found.counts(), fits.sum(-1))


def test_lists_without_a_flag_are_left_alone(kernel_device, poisoned):
    values = drawn("even", 5000, 3).to(kernel_device)
    flags = torch.tensor([True, False, True], device=kernel_device)
    limit = torch.full((3,), 0.5, dtype=torch.float64, device=kernel_device)
    some = find_prefix(values, limit, count=False, flags=flags).keep()
    assert torch.equal(some[flags], find_prefix(values, limit, count=False).keep()[flags])


def test_programs_of_very_long_lists_take_more():
    assert sizes_of(131072)["PIECE"] == 4096
    for size in (1 << 21, 1 << 24, 1 << 26):
        taken = sizes_of(size)
        assert taken["PIECE"] * taken["PIECES"] >= size and taken["PIECES"] <= 2048


def test_other_dtypes_are_refused(kernel_device):
    values = torch.ones(2, 10, dtype=torch.float64, device=kernel_device)
    with pytest.raises(ValueError, match=r"needs contiguous float32 lists, got torch\.float64"):
        find_prefix(values, torch.ones(2, dtype=torch.float64, device=kernel_device), count=True)
