"""Calls repeated as the launches of an earlier one; kernels are stood in for by functions."""

from __future__ import annotations

import pytest
import torch

from method.ops import launch, repeat
from method.ops.launch import Launches, Ready, kept
from method.rr import RRAttention
from method.rr_plus import RRPlus


class Kernel:
    """Launched like a kernel under the interpreter: a function of the arguments."""

    def __init__(self, function):
        self.function = function

    def __getitem__(self, grid):
        return lambda *args, **constants: (self.function(*args), None)[1]


PRODUCT = Kernel(lambda x, y, out, factor: out.copy_(x * y * factor))
SUM = Kernel(lambda x, offsets, out, total: (out.copy_(x + offsets), total.fill_(float(x.sum()))))


class Call:
    """Two launches with memory in between; counts how often it is asked."""

    def __init__(self, twist=None, launches=None):
        self.asked, self.twist, self.launches = 0, twist, launches or Launches()

    def prepared(self, x):
        product, offsets = Ready(PRODUCT, (1,), (3.0,), {}), torch.arange(3).to(x)[:, None]
        return product, Ready(SUM, (1,), (), {}), offsets

    def run(self, x, y):
        self.asked += 1
        product, add, offsets = kept("op", (x, y), None, lambda: self.prepared(x))
        between = torch.empty(x.shape, dtype=torch.float64)
        unused = torch.empty(1)
        out, total = x.new_empty(4, 3).transpose(0, 1), torch.empty(1)
        product(x, y, between)
        add(between, offsets, out, total)
        return {
            "more": lambda: (out + 0, total),
            "copy": lambda: (out.clone(), total),
            "view": lambda: (out[:, :2], total),
            "given": lambda: (out, x),
            "constant": lambda: (out, offsets),
            "unfilled": lambda: (out, unused),
            None: lambda: (out, total),
        }[self.twist]()

    def __call__(self, x, y, options=None):
        out, total = self.launches.repeated(options, (x, y), lambda: self.run(x, y))
        return out, total


def inputs(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    # Strides of their own, and nothing at the start of its memory.
    return [torch.randn(5, 3, generator=generator, dtype=dtype)[1:].T for _ in "xy"]


def expected(x, y):
    return x * y * 3 + torch.arange(3).to(x)[:, None], (x * y * 3).sum()


def test_from_the_third_call_on_only_launches_are_repeated(poisoned):
    call, results = Call(), []
    for seed in range(6):
        x, y = inputs(seed)
        results.append((call(x, y), expected(x, y)))
    assert call.asked == 2
    for (out, total), (true, true_total) in results:  # each call's results are its own
        torch.testing.assert_close(out, true)
        torch.testing.assert_close(total[0].double(), true_total, rtol=1e-5, atol=1e-5)
        assert out.stride() == (1, 3)


def test_other_tensors_and_options_are_other_calls():
    call = Call()
    for _ in range(3):
        call(*inputs(0))
    assert call.asked == 2
    call(*inputs(0), options="other")
    assert call.asked == 3
    call(*(one.contiguous() for one in inputs(0)))
    assert call.asked == 4
    call(*inputs(0, torch.float32))
    assert call.asked == 5
    call(*inputs(1))
    assert call.asked == 5
    call.launches = Launches()
    call(*inputs(1))
    assert call.asked == 6


@pytest.mark.parametrize("twist", ["more", "copy", "view", "given", "constant", "unfilled"])
def test_what_does_more_than_fill_its_results_by_launches_is_asked_each_time(twist):
    call = Call(twist)
    for seed in range(4):
        x, y = inputs(seed)
        found = call(x, y)[0]
        torch.testing.assert_close(found, expected(x, y)[0][:, : found.shape[1]])
    assert call.asked == 4


def test_inputs_that_begin_at_one_address_are_not_told_apart():
    call = Call()
    x, y = inputs(0)
    for _ in range(3):
        call(x, x)
    torch.testing.assert_close(call(x, y)[0], expected(x, y)[0])


def test_much_memory_in_between_is_given_back_early(monkeypatch):
    monkeypatch.setattr(repeat, "MOST_BYTES", 100)
    call = Call()
    for _ in range(3):
        call(*inputs(0))
    assert call.asked == 3


def test_a_capture_does_not_trace(monkeypatch):
    call = Call()
    call(*inputs(0))
    monkeypatch.setattr(launch, "_capturing", lambda: True)
    for _ in range(3):
        call(*inputs(0))
    assert call.asked == 4


def test_a_failed_call_is_traced_again():
    call = Call()
    call(*inputs(0))
    call.twist = "no such"
    with pytest.raises(KeyError):
        call(*inputs(0))
    call.twist = None
    assert call.launches.trace is None
    for _ in range(3):
        call(*inputs(0))
    assert call.asked == 3


def test_methods_repeat_where_all_layers_launch_alike():
    assert RRAttention().launches_only and RRAttention(offset=3).launches_only
    for changed in ({"offset": "head_layer"}, {"offset": "random"}, {"offset": "mean"}, {"tau": 1.0}):
        assert not RRAttention(**changed).launches_only
    assert RRPlus(keys="mean").launches_only
    for changed in ({"offset": "random"}, {"selector": "relative"}, {"tau": 1.0}, {"keys": "exact"}):
        assert not RRPlus(**{"keys": "mean", **changed}).launches_only
