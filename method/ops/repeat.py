"""Notes the launches of one call, to do nothing but these in the calls that follow.

A method that only launches kernels does the same thing for any tensors of the same shapes: it
allocates, and launches. The launches of one call, each with what its arguments are (a tensor that was
given, one that is returned, memory in between, a constant), are all that a later call needs. Outputs
are allocated as before; all memory in between is one allocation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from method.ops.direct import Addresses, DirectLaunch

aten = torch.ops.aten
ALLOCATING = {aten.empty, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.empty_like}
VIEWING = {
    *(aten.view, aten.as_strided, aten.transpose, aten.permute, aten.unsqueeze, aten.squeeze),
    *(aten.select, aten.slice, aten.expand, aten.alias, aten.detach),
}

MOST_BYTES = 64 << 20
"""Of memory in between. Beyond, the device is busy for longer than the host takes to queue a call, and
memory that each part gives back counts for more."""

ALIGNMENT = 512
"""Of every piece of memory in between, as of PyTorch's own allocations."""


@dataclass(frozen=True)
class _Argument:
    """One argument of a launch.

    Attributes:
        base: which of the addresses of a call: 0 itself, then the inputs, the outputs, and last the
            memory in between.
        offset: bytes behind that address.
        shape: of the tensor.
        strides: of the tensor.
        dtype: of the tensor.
        constant: the tensor itself if it is the same in every call.
    """

    base: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    constant: Tensor | None = None


class Trace(TorchDispatchMode):
    """Notes what PyTorch allocates and what is launched, inside ``with``."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, Tensor] = {}
        self._launches: list[tuple[Any, tuple[Tensor, ...]]] = []
        self._launching = False
        self.others: list[str] = []
        """Whatever else PyTorch did."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # what PyTorch calls
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if self._launching:
            pass  # the interpreter works with tensors
        elif packet in ALLOCATING:
            self._made[result.untyped_storage().data_ptr()] = result
        elif packet not in VIEWING:
            self.others.append(str(packet))
        return result

    def launch(self, ready: Any, tensors: tuple[Tensor, ...]) -> None:
        """Launch a :class:`method.ops.launch.Ready` and note it."""
        self._launches.append((ready, tensors))
        self._launching = True
        try:
            ready.run(*tensors)
        finally:
            self._launching = False

    def repeat(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], stream: int
    ) -> Repeat | None:
        """What does the same again.

        Args:
            inputs: what the call was given.
            outputs: what it returned.
            stream: where it worked.

        Returns:
            None if the call did other work than launches, returned anything that these do not fill in,
            or needs much memory in between.
        """
        bases = {one.data_ptr(): place for place, one in enumerate(inputs, 1)}
        made = dict(self._made)
        for place, one in enumerate(outputs, 1 + len(inputs)):
            own = made.pop(one.data_ptr(), None)
            if own is None or own.untyped_storage().nbytes() != one.numel() * one.element_size():
                return None
            bases[one.data_ptr()] = place
        if self.others or len(bases) != len(inputs) + len(outputs):
            return None
        last = 1 + len(bases)
        between: dict[int, int] = {}
        size = 0
        for start, own in made.items():
            between[start] = size
            size += -(-own.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
        given = {one.untyped_storage().data_ptr() for one in inputs}
        steps = []
        for ready, tensors in self._launches:
            arguments = []
            for one in tensors:
                at, start = one.data_ptr(), one.untyped_storage().data_ptr()
                kind = tuple(one.shape), one.stride(), one.dtype
                if at in bases:
                    arguments.append(_Argument(bases[at], 0, *kind))
                elif start in between:
                    arguments.append(_Argument(last, between[start] + at - start, *kind))
                elif start in given or start in bases:
                    return None
                else:
                    arguments.append(_Argument(0, at, *kind, one))
            steps.append((ready, arguments))
        filled = {one.base for _, arguments in steps for one in arguments}
        if size > MOST_BYTES or not filled.issuperset(range(1 + len(inputs), last)):
            return None
        return Repeat(outputs, size, steps, len(bases), stream)


class Repeat:
    """The launches of a call, on other tensors of the same shapes and on the same stream.

    Args:
        outputs: tensors like those that a call returns.
        size: bytes of memory in between.
        steps: every launch and its arguments.
        known: inputs and outputs.
        stream: where to launch.
    """

    def __init__(
        self,
        outputs: Sequence[Tensor],
        size: int,
        steps: Sequence[tuple[Any, list[_Argument]]],
        known: int,
        stream: int,
    ) -> None:
        device = outputs[0].device
        self._outputs = [
            (one.shape, one.stride(), {"dtype": one.dtype, "device": device}) for one in outputs
        ]
        self._between = (size,), {"dtype": torch.uint8, "device": device}
        self._steps = steps
        self._launches: list[DirectLaunch] | None = None
        if all(ready.kernel is not None for ready, _ in steps):
            self._prepare(known, stream)

    def _prepare(self, known: int, stream: int) -> None:
        """Launch by the driver: all launches read one table of addresses.

        It holds the inputs and outputs, ``known`` of them, pieces of the memory in between, constants.
        """
        arguments = [one for _, own in self._steps for one in own]
        pieces = {one.offset for one in arguments if one.base > known}
        constants = {one.offset for one in arguments if not one.base}
        self._pieces, self._constants = sorted(pieces), sorted(constants)
        self._addresses = Addresses(known + len(pieces) + len(constants))

        def place(one: _Argument) -> int:
            if not one.base:
                return known + len(pieces) + self._constants.index(one.offset)
            return one.base - 1 if one.base <= known else known + self._pieces.index(one.offset)

        self._launches = [
            DirectLaunch(ready.kernel, self._addresses, [place(one) for one in own], stream)
            for ready, own in self._steps
        ]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for these inputs."""
        outputs = [
            torch.empty_strided(shape, stride, **options) for shape, stride, options in self._outputs
        ]
        size, options = self._between
        between = torch.empty(size, **options)
        if self._launches is None:
            self._run((*inputs, *outputs), between)
            return outputs
        addresses = [one.data_ptr() for one in inputs]
        addresses += [one.data_ptr() for one in outputs]
        start = between.data_ptr()
        addresses += [start + offset for offset in self._pieces]
        self._addresses.write(addresses + self._constants)
        for launch in self._launches:
            launch()
        return outputs

    def _run(self, known: Sequence[Tensor], between: Tensor) -> None:
        """The launches as Triton, or its interpreter, does them."""
        for ready, arguments in self._steps:
            ready.run(*(_tensor(one, known, between) for one in arguments))


def _tensor(one: _Argument, known: Sequence[Tensor], between: Tensor) -> Tensor:
    """An argument of a launch in a call with these inputs and outputs, and this memory in between."""
    if one.constant is not None:
        return one.constant
    if one.base <= len(known):
        return known[one.base - 1].as_strided(one.shape, one.strides)
    room = (len(between) - one.offset) // one.dtype.itemsize * one.dtype.itemsize
    own = between[one.offset : one.offset + room].view(one.dtype)
    return own.as_strided(one.shape, one.strides)
