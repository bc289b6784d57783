"""Launches compiled kernels by single calls of the CUDA driver, all arguments prepared.

Triton's own launch takes the arguments apart anew each time: it asks the driver about every pointer,
encodes every tensor descriptor and converts every number. Here a call writes addresses where the driver
will read them, and nothing else. What is used of Triton's compiled kernel is named in
:func:`direct_kernel`; where it is not there, kernels are launched as Triton does it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

NUMBERS = {
    "i32": ctypes.c_int32, "i64": ctypes.c_int64, "u32": ctypes.c_uint32, "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
}  # fmt: skip
"""The C type of a number by Triton's name for it."""

DESCRIPTOR_BYTES = 128
"""Size of the driver's ``CUtensorMap``."""

MOST_DESCRIPTORS = 128
"""Encoded descriptors that are kept for one argument; the oldest go first."""

NO_CONTEXT = 201
"""What the driver answers in a thread that has not used the GPU yet."""


OVERLAPPING = 6
"""The driver's ``CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION``."""


class _Attribute(ctypes.Structure):
    """The driver's ``CUlaunchAttribute``: which, and its value in a union of 64 bytes."""

    _fields_ = (
        ("which", ctypes.c_uint), ("unused", ctypes.c_uint), ("value", ctypes.c_int),
        ("room", ctypes.c_uint8 * 60),
    )  # fmt: skip


class _Config(ctypes.Structure):
    """The driver's ``CUlaunchConfig``: grid, threads, bytes of shared memory, stream, attributes."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint),
    )  # fmt: skip


class Descriptor:
    """The tensor descriptor of one argument, encoded for each address that it is asked for.

    Encoded, it says where a tensor is, its sizes and strides and the block to load, and nothing of what
    is there: it stays right when the memory is given to another tensor alike.

    Args:
        descriptor: Triton's or Gluon's.
        meta: how the compiled kernel wants it encoded.
    """

    def __init__(self, descriptor: Any, meta: Any) -> None:
        self._descriptor, self._meta = descriptor, meta
        self._encoded: dict[int, tuple[int, Any]] = {}
        self.numbers: list[Any] = [ctypes.c_int32(size) for size in descriptor.shape]
        """What kernels are given behind a descriptor."""
        self.numbers += [ctypes.c_int64(stride) for stride in descriptor.strides]

    def at(self, address: int) -> int:
        """Where the encoded descriptor of a tensor at an address lies."""
        found = self._encoded.get(address)
        if found is None:
            if len(self._encoded) >= MOST_DESCRIPTORS:
                del self._encoded[next(iter(self._encoded))]
            found = self._encoded[address] = self._encode(address)
        return found[0]

    def _encode(self, address: int) -> tuple[int, Any]:
        from triton.backends.nvidia.driver import make_tensordesc_arg

        before, self._descriptor.base = self._descriptor.base, _Address(address)
        holder = make_tensordesc_arg(self._descriptor, self._meta)[0]
        self._descriptor.base = before
        # The holder is a C struct that ends with the encoded descriptor.
        return id(holder) + type(holder).__basicsize__ - DESCRIPTOR_BYTES, holder


class _Address(int):
    """Stands for a tensor of which only the address is asked."""

    def data_ptr(self) -> int:
        return int(self)


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel with all but the addresses of its tensors.

    Attributes:
        function: the driver's handle.
        grid: programs along three dimensions.
        threads: of a program.
        shared: bytes of shared memory of a program.
        arguments: in order: the place of a tensor; a descriptor and the place of its tensor; a number.
        tensors: arguments that are tensors.
        overlaps: it may start before the kernel ahead of it has ended.
    """

    function: int
    grid: Sequence[int]
    threads: int
    shared: int
    arguments: Sequence[int | tuple[Descriptor, int] | Any]
    tensors: int
    overlaps: bool = False


def direct_kernel(
    compiled: Any, grid: Sequence[int], numbers: Sequence[float], descriptors: Mapping[int, Any]
) -> Kernel | None:
    """What :class:`DirectLaunch` needs of a kernel that Triton has compiled and launched once.

    Args:
        compiled: what the kernel's launch returned; its arguments are tensors, numbers, constants.
        grid: programs along three dimensions.
        numbers: the arguments after the tensors.
        descriptors: tensor descriptors by the place of their argument.

    Returns:
        None for a kernel that needs more than its arguments (a cluster, scratch memory of Triton's), or
        where this version of Triton keeps its facts elsewhere.
    """
    try:
        facts = compiled.metadata
        types = list(compiled.src.signature.values())
        function, threads, shared = int(compiled.function), 32 * facts.num_warps, facts.shared
        plain = facts.num_ctas == 1 and not facts.launch_cooperative_grid
        overlaps = bool(facts.launch_pdl)
        scratch = facts.global_scratch_size or facts.profile_scratch_size
        metas = [one for one in getattr(facts, "tensordesc_meta", None) or () if one is not None]
        places = [place for place, kind in enumerate(types) if kind.startswith("tensordesc")]
    except (AttributeError, TypeError):
        return None
    if not plain or scratch or len(metas) != len(places) or places != sorted(descriptors):
        return None
    encoders = {
        place: Descriptor(descriptors[place], meta) for place, meta in zip(places, metas, strict=True)
    }
    tensors = sum(kind[0] == "*" for kind in types) + len(places)
    arguments: list[Any] = []
    for place, kind in enumerate(types):
        if place in encoders:
            arguments += [(encoders[place], place), *encoders[place].numbers]
        elif kind[0] == "*":
            arguments.append(place)
        elif kind in NUMBERS:
            arguments.append(NUMBERS[kind](numbers[place - tensors]))
        elif kind != "constexpr":
            return None
    if _driver() is None:
        return None
    # Behind them stand two addresses of Triton's own memory, which these kernels do not use.
    arguments += [ctypes.c_uint64(0), ctypes.c_uint64(0)]
    return Kernel(function, grid, threads, shared, arguments, tensors, overlaps)


class Addresses:
    """Where launches read the addresses of their tensors; one call's at a time."""

    def __init__(self, count: int) -> None:
        self._slots = (ctypes.c_uint64 * count)()
        self._pack = struct.Struct(f"{count}Q").pack_into
        self.values: Sequence[int] = ()

    def write(self, values: Sequence[int]) -> None:
        """Set the addresses of the launches that follow."""
        self.values = values
        self._pack(self._slots, 0, *values)

    def slot(self, place: int) -> int:
        """Where an address is written."""
        return ctypes.addressof(self._slots) + 8 * place


class DirectLaunch:
    """Launches a kernel on the tensors whose addresses were written last.

    One thread at a time may use it and what it reads.

    Args:
        kernel: the kernel.
        addresses: where the addresses of its tensors are written.
        places: which of them are its tensors', in the order of its arguments.
        stream: the driver's handle of the stream.
    """

    def __init__(
        self, kernel: Kernel, addresses: Addresses, places: Sequence[int], stream: int = 0
    ) -> None:
        self._kernel, self._addresses = kernel, addresses  # keeps alive what the driver reads
        self._params = (ctypes.c_void_p * len(kernel.arguments))()
        self._descriptors = []
        for at, one in enumerate(kernel.arguments):
            if isinstance(one, int):
                self._params[at] = addresses.slot(places[one])
            elif isinstance(one, tuple):
                self._descriptors.append((at, one[0], places[one[1]]))
            else:
                self._params[at] = ctypes.addressof(one)
        self._attribute = _Attribute(OVERLAPPING, value=1)
        attributes = ctypes.addressof(self._attribute), int(kernel.overlaps)
        threads = kernel.threads, 1, 1
        self._config = _Config(tuple(kernel.grid), threads, kernel.shared, stream, *attributes)
        self._driver = _driver()
        self._launch = self._driver.cuLaunchKernelEx
        config, function = ctypes.byref(self._config), ctypes.c_void_p(kernel.function)
        self._given = config, function, self._params, None

    def on(self, stream: int) -> None:
        """Launch on another stream from now on."""
        self._config.stream = stream

    def __call__(self) -> None:
        """Launch.

        Raises:
            RuntimeError: the driver refuses.
        """
        for at, descriptor, place in self._descriptors:
            self._params[at] = descriptor.at(self._addresses.values[place])
        code = self._launch(*self._given)
        if code == NO_CONTEXT:
            torch.cuda.Event().record()  # makes the device's context this thread's
            code = self._launch(*self._given)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            reason = (text.value or b"unknown").decode()
            raise RuntimeError(f"launching a kernel failed: CUDA error {code}, {reason}")


@cache
def _driver() -> Any:
    """The CUDA driver's library; None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
