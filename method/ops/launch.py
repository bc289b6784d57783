"""What a repeated launch need not work out again, kept by the executor that repeats it.

From call to call of a layer's prefill only addresses change: checks, sizes, grids, descriptors and the
choice of the compiled kernel stay the same as long as shapes, strides and settings do. An operation
puts them into a function of its tensors, and :func:`kept` finds that function again. Without a
:class:`Launches` around the call it is made anew each time, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")

MOST = 256
"""Functions that are kept: some for each length of prompt; the oldest go first."""


class Launches:
    """The functions that one executor's calls made ready; active inside ``with``.

    Nothing in it holds a tensor of a call: outputs and scratch come from PyTorch's allocator each time,
    so calls may overlap on several streams, and may be captured in a CUDA graph after one eager call.
    What a capture used is kept as long as this object, which must outlive the graph.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._captured: list[Any] = []
        self._capturing = False
        self._tokens: list[Token[Launches | None]] = []

    def __enter__(self) -> Launches:
        self._tokens.append(_ACTIVE.set(self))
        self._capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        return self

    def __exit__(self, *error: object) -> None:
        _ACTIVE.reset(self._tokens.pop())

    def __len__(self) -> int:
        return len(self._made)

    def find(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for a key; made now if nothing was."""
        found: Made | None = self._made.get(key)
        if found is None:
            found = make()
            # What is made inside a capture exists from its first replay on only.
            if not self._capturing:
                if len(self._made) >= MOST:
                    del self._made[next(iter(self._made))]
                self._made[key] = found
        if self._capturing:
            self._captured.append(found)
        return found


_ACTIVE: ContextVar[Launches | None] = ContextVar("launches", default=None)


def kept(name: str, tensors: Sequence[Tensor], options: Hashable, make: Callable[[], Made]) -> Made:
    """What ``make`` returns, from the active :class:`Launches` where it was made before.

    Args:
        name: of the operation.
        tensors: what it is called with; shape, strides, dtype, device and alignment count.
        options: whatever else the result depends on.
        make: checks the tensors and returns a function of such ones; it must not hold on to them.
    """
    active = _ACTIVE.get()
    if active is None:
        return make()
    shapes = [(one.shape, one.stride(), one.dtype, one.device, one.data_ptr() % 16) for one in tensors]
    return active.find((name, options, *shapes), make)


def counter_on(device: torch.device) -> Tensor:
    """A zero that programs draw their tiles from; the last one to end puts it back to zero.

    Launches on one stream may share it, so what holds it is kept for :func:`stream_of` the device.
    """
    return torch.zeros(1, dtype=torch.int32, device=device)


def stream_of(device: torch.device) -> int:
    """The current stream of a GPU."""
    return torch.cuda.current_stream(device).cuda_stream


class Ready:
    """A kernel with everything but its tensors: the first call compiles it, later ones only launch.

    Args:
        kernel: a Triton or Gluon kernel whose arguments are tensors, then numbers, then constants.
        grid: programs along each dimension.
        numbers: the arguments after the tensors.
        constants: constants and compilation options by name.
        descriptors: tensor descriptors by the place of their argument; a call gives them its tensors.
    """

    def __init__(
        self,
        kernel: Any,
        grid: Sequence[int],
        numbers: Sequence[float],
        constants: Mapping[str, Any],
        descriptors: Mapping[int, Any] | None = None,
    ) -> None:
        self._kernel, self._grid = kernel, (*grid, 1, 1)[:3]
        self._numbers, self._constants = tuple(numbers), dict(constants)
        self._descriptors = tuple((descriptors or {}).items())
        for _, descriptor in self._descriptors:
            descriptor.base = None
        self._rest: tuple[Any, ...] = ()
        self._launch: Callable[..., Any] | None = None

    def __call__(self, *tensors: Tensor) -> None:
        """Launch on the current stream."""
        args: list[Any] = list(tensors)
        for place, descriptor in self._descriptors:
            descriptor.base = args[place]
            args[place] = descriptor
        if self._launch is not None:
            self._launch(*args, *self._rest)
        else:
            # The interpreter compiles nothing and returns nothing.
            compiled = self._kernel[self._grid](*args, *self._numbers, **self._constants)
            if compiled is not None:
                names = self._kernel.arg_names
                constants = [self._constants[one] for one in names if one in self._constants]
                self._rest = (*self._numbers, *constants)
                assert len(args) + len(self._rest) == len(names), f"arguments of {names}"
                self._launch = compiled[self._grid]
        for _, descriptor in self._descriptors:
            descriptor.base = None  # else the tensor would live on
