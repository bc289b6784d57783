"""Notes the launches of one call, to do nothing but these in the calls that follow.

What only launches kernels does the same for any tensors of the same shapes: it allocates, and launches.
The launches of one call, each with what its arguments are (tensors given, tensors returned, memory in
between, constants), are all that a later call needs. What it returns is allocated as before, all memory
in between at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
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
that each part of it gives back its memory counts for more."""

ALIGNMENT = 512
"""Of every piece of memory in between, as of PyTorch's own allocations."""


@dataclass(frozen=True)
class _Argument:
    """A tensor of a launch; one of the last three says where it is.

    Attributes:
        shape: sizes.
        strides: in elements.
        dtype: of its elements.
        place: it is this one of the inputs and outputs.
        offset: it begins at this byte of the memory in between.
        constant: it is the same in every call.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    place: int | None = None
    offset: int | None = None
    constant: Tensor | None = None

    def tensor(self, known: Sequence[Tensor], between: Tensor) -> Tensor:
        """The argument in a call with these inputs and outputs, and this memory in between."""
        if self.constant is not None:
            return self.constant
        if self.place is not None:
            return known[self.place].as_strided(self.shape, self.strides)
        assert self.offset is not None
        room = (len(between) - self.offset) // self.dtype.itemsize * self.dtype.itemsize
        own = between[self.offset : self.offset + room].view(self.dtype)
        return own.as_strided(self.shape, self.strides)


class Trace(TorchDispatchMode):
    """Notes what PyTorch does and what is launched, inside ``with``."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, Tensor] = {}  # by the address where its memory starts
        self._others: list[str] = []
        self._launches: list[tuple[Any, tuple[Tensor, ...]]] = []
        self._launching = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch in place of every operation."""
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if self._launching:
            return result  # Triton's interpreter works with tensors
        if packet in ALLOCATING:
            self._made[_start(result)] = result
        elif packet not in VIEWING:
            self._others.append(str(packet))
        return result

    def launch(self, ready: Any, tensors: tuple[Tensor, ...]) -> None:
        """Launch a :class:`method.ops.launch.Ready`, and note it."""
        self._launches.append((ready, tensors))
        self._launching = True
        try:
            ready.run(*tensors)
        finally:
            self._launching = False

    def repeat(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], stream: int) -> Repeat | None:
        """What does the same again, on other tensors like these.

        Args:
            inputs: what the call was given.
            outputs: what it returned.
            stream: where it worked.

        Returns:
            None if the call did anything but launch, returned what its launches do not fill in, or
            needs much memory in between.
        """
        known = [*inputs, *outputs]
        places = {one.data_ptr(): place for place, one in enumerate(known)}
        whole = all(self._is_whole(one) for one in outputs)
        if self._others or not whole or len(places) != len(known):
            return None
        offsets, size = {}, 0
        for start in self._made.keys() - places.keys():
            offsets[start] = size
            size += -(-self._made[start].untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
        belong = {_start(one) for one in known}
        steps, used = [], set()
        for ready, tensors in self._launches:
            arguments = []
            for one in tensors:
                at, start = one.data_ptr(), _start(one)
                like = tuple(one.shape), one.stride(), one.dtype
                if at in places:
                    used.add(places[at])
                    arguments.append(_Argument(*like, place=places[at]))
                elif start in offsets:
                    arguments.append(_Argument(*like, offset=offsets[start] + at - start))
                elif start in belong:
                    return None
                else:
                    arguments.append(_Argument(*like, constant=one))
            steps.append((ready, arguments))
        if size > MOST_BYTES or not used.issuperset(range(len(inputs), len(known))):
            return None
        return Repeat(outputs, size, steps, len(known), stream)

    def _is_whole(self, output: Tensor) -> bool:
        """Whether it is all of a piece of memory that the call allocated."""
        made = self._made.get(output.data_ptr())
        return made is not None and output.untyped_storage().nbytes() == output.nbytes


class Repeat:
    """The launches of a call, for tensors of the same shapes on the same stream.

    Args:
        outputs: tensors like those that a call returns.
        size: bytes of memory in between.
        steps: every launch, a :class:`method.ops.launch.Ready`, and its arguments.
        known: how many inputs and outputs there are.
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
            partial(torch.empty_strided, one.shape, one.stride(), dtype=one.dtype, device=device)
            for one in outputs
        ]
        self._between = partial(torch.empty, (size,), dtype=torch.uint8, device=device)
        self._steps = steps
        self.direct = all(ready.kernel is not None for ready, _ in steps)
        """Whether the driver launches."""
        if self.direct:
            self._prepare(known, stream)

    def _prepare(self, known: int, stream: int) -> None:
        """Let all launches read one table: inputs, outputs, memory in between, constants."""
        arguments = [one for _, own in self._steps for one in own]
        self._offsets = sorted({one.offset for one in arguments if one.offset is not None})
        fixed = {one.constant.data_ptr() for one in arguments if one.constant is not None}
        self._constants = sorted(fixed)
        self._addresses = Addresses(known + len(self._offsets) + len(self._constants))

        def place(one: _Argument) -> int:
            if one.place is not None:
                return one.place
            if one.offset is not None:
                return known + self._offsets.index(one.offset)
            assert one.constant is not None
            return known + len(self._offsets) + self._constants.index(one.constant.data_ptr())

        self._launches = [
            DirectLaunch(ready.kernel, self._addresses, [place(one) for one in own], stream)
            for ready, own in self._steps
        ]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for these inputs."""
        outputs = [allocate() for allocate in self._outputs]
        between = self._between()
        if self.direct:
            addresses = [one.data_ptr() for one in inputs]
            addresses += [one.data_ptr() for one in outputs]
            start = between.data_ptr()
            addresses += [start + offset for offset in self._offsets]
            self._addresses.write(addresses + self._constants)
            for launch in self._launches:
                launch()
        else:
            known = *inputs, *outputs
            for ready, arguments in self._steps:
                ready.run(*(one.tensor(known, between) for one in arguments))
        return outputs


def _start(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()
