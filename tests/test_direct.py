"""Launches by the CUDA driver, which a function stands in for."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch

from method.ops import direct
from method.ops.direct import Addresses, Descriptor, DirectLaunch, direct_kernel

POINTER = ctypes.c_void_p
SIGNATURE = {
    "a": "*fp16", "desc": "tensordesc<fp16[64, 64]>", "b": "*i64", "one": "constexpr", "rows": "i32",
    "far": "i64", "factor": "fp32", "SIZE": "constexpr",
}  # fmt: skip
SIZES = [8, 128, 4, 4, 8, 8, 8, 4, 8, 4, 8, 8]
"""Bytes of the arguments: a, the descriptor with two sizes and two strides, b, numbers, scratch."""


def compiled(**changes):
    facts = {
        "num_warps": 4, "shared": 1000, "num_ctas": 1, "launch_cooperative_grid": False,
        "launch_pdl": False, "global_scratch_size": 0, "profile_scratch_size": 0,
        "tensordesc_meta": [{"block_size": [64, 64]}],
    }  # fmt: skip
    facts = {name: value for name, value in (facts | changes).items() if value != "missing"}
    signature = changes.get("signature", SIGNATURE)
    source = SimpleNamespace(signature=signature)
    return SimpleNamespace(metadata=SimpleNamespace(**facts), src=source, function=0xF00)


class Driver:
    """Notes what it is told to launch; answers with a code."""

    def __init__(self):
        self.launches, self.codes = [], []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(direct._Config), POINTER, ctypes.POINTER(POINTER), POINTER
        )
        self.cuLaunchKernelEx = kind(self._launch)

    def _launch(self, config, function, params, extra):
        one = config.contents
        values = [ctypes.string_at(params[at], size) for at, size in enumerate(SIZES)]
        sizes = (*one.grid, *one.block, one.shared)
        self.attributes = ctypes.string_at(one.attributes, 72 * one.count)
        self.launches.append((function, sizes, one.stream, values))
        return self.codes.pop() if self.codes else 0

    def cuGetErrorString(self, code, text):
        text._obj.value = b"no such thing"


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(direct, "_driver", lambda: driver)
    monkeypatch.setattr(Descriptor, "_encode", encode)
    return driver


def encode(self, address):
    """The address, 16 times."""
    held = (ctypes.c_uint64 * 16)(*[address] * 16)
    encode.count += 1
    return ctypes.addressof(held), held


encode.count = 0
DESCRIPTOR = SimpleNamespace(shape=[30, 64], strides=[64, 1], base=None)


def make(**changes):
    numbers = (1, 7, 1 << 40, 0.5)
    return direct_kernel(compiled(**changes), (2, 3, 1), numbers, {1: DESCRIPTOR})


def test_the_driver_is_given_every_argument(driver):
    addresses = Addresses(4)
    launch = DirectLaunch(make(), addresses, (3, 0, 1), stream=5)
    for first in (1000, 2000):
        addresses.write([first, first + 1, first + 2, first + 3])
        launch()
        function, sizes, stream, values = driver.launches.pop()
        assert (function, sizes, stream) == (0xF00, (2, 3, 1, 128, 1, 1, 1000), 5)
        numbers = [int.from_bytes(one, "little") for one in values]
        assert numbers[0] == first + 3 and values[1] == first.to_bytes(8, "little") * 16
        assert numbers[2:9] == [30, 64, 64, 1, first + 1, 7, 1 << 40]
        assert ctypes.c_float.from_buffer_copy(values[9]).value == 0.5
        assert numbers[10:] == [0, 0]
    launch.on(6)
    launch()
    assert driver.launches.pop()[2] == 6


@pytest.mark.parametrize("overlaps", [False, True])
def test_the_driver_is_told_which_kernel_may_start_early(overlaps, driver):
    addresses = Addresses(3)
    addresses.write([1, 2, 3])
    DirectLaunch(make(launch_pdl=overlaps), addresses, range(3))()
    # CUlaunchAttribute: an int, padding to 8 bytes, a union of 64 bytes that begins with the value.
    told = (6).to_bytes(8, "little") + (1).to_bytes(64, "little")
    assert driver.attributes == told * overlaps


def test_a_descriptor_is_encoded_once_for_an_address(driver, monkeypatch):
    monkeypatch.setattr(direct, "MOST_DESCRIPTORS", 2)
    addresses = Addresses(3)
    launch = DirectLaunch(make(), addresses, range(3))
    before = encode.count
    seen = []
    for address in (10, 20, 10, 20, 30, 20, 10):
        addresses.write([1, address, 2])
        launch()
        seen.append(int.from_bytes(driver.launches.pop()[3][1][:8], "little"))
    assert seen == [10, 20, 10, 20, 30, 20, 10]
    assert encode.count - before == 4  # the third address pushes out the first


@pytest.mark.parametrize(
    "changes",
    [
        {"num_ctas": 2},
        {"launch_cooperative_grid": True},
        {"global_scratch_size": 64},
        {"profile_scratch_size": 64},
        {"tensordesc_meta": [None]},
        {"shared": "missing"},
        {"launch_pdl": "missing"},
        {"signature": {"pair": ("*fp16", "i32")}},
        {"signature": SIGNATURE | {"rows": "i8"}},
    ],
    ids=str,
)
def test_a_kernel_that_needs_more_is_left_to_triton(changes, driver):
    assert make() is not None
    assert make(**changes) is None


def test_without_the_driver_kernels_are_left_to_triton(driver, monkeypatch):
    monkeypatch.setattr(direct, "_driver", lambda: None)
    assert make() is None


def test_a_refusal_is_an_error(driver):
    addresses = Addresses(3)
    addresses.write([1, 2, 3])
    driver.codes = [1]
    with pytest.raises(RuntimeError, match="CUDA error 1, no such thing"):
        DirectLaunch(make(), addresses, range(3))()


def test_a_thread_without_a_context_gets_one(driver, monkeypatch):
    recorded = []
    event = SimpleNamespace(record=lambda: recorded.append(1))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    addresses = Addresses(3)
    addresses.write([1, 2, 3])
    driver.codes = [direct.NO_CONTEXT]
    DirectLaunch(make(), addresses, range(3))()
    assert recorded == [1] and len(driver.launches) == 2
