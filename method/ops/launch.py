"""What a repeated launch need not work out again, kept by the executor that repeats it.

From call to call of a layer's prefill only addresses change: checks, sizes, grids, descriptors and the
choice of the compiled kernel stay the same as long as shapes, strides and settings do. It is kept at
three depths, each of which works without those below:

* An operation puts all this into a function of its tensors, and :func:`kept` finds that function again.
  Without a :class:`Launches` around the call it is made anew each time, with the same result.
* A kernel, compiled, is launched by one call of the driver (:mod:`method.ops.direct`).
* A whole call that does nothing but launch kernels is repeated as these launches, without asking the
  operations again (:meth:`Launches.repeated`, :mod:`method.ops.repeat`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, TypeVar

import torch
from torch import Tensor

from method.ops.direct import Addresses, DirectLaunch, Kernel, direct_kernel
from method.ops.repeat import Repeat, Trace

Made = TypeVar("Made")

MOST = 256
"""Functions that are kept: some for each length of prompt; the oldest go first."""


class Launches:
    """The functions that one executor's calls made ready; active inside ``with``.

    Nothing in it holds a tensor of a call: outputs and scratch come from PyTorch's allocator each time,
    so calls may overlap on several streams, and may be captured in a CUDA graph after one eager call.
    What a capture used is kept as long as this object, which must outlive the graph. One thread at a
    time may use it.
    """

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self._made: dict[Hashable, Any] = {}
        self._captured: list[Any] = []
        self._capturing = False
        self._tokens: list[Token[Launches | None]] = []

    def __enter__(self) -> Launches:
        self._tokens.append(_ACTIVE.set(self))
        self._capturing = _capturing()
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
                self._keep(key, found)
        if self._capturing:
            self._captured.append(found)
        return found

    def _keep(self, key: Hashable, made: object) -> None:
        if key not in self._made and len(self._made) >= MOST:
            del self._made[next(iter(self._made))]
        self._made[key] = made

    def repeated(
        self, options: Hashable, tensors: Sequence[Tensor], run: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """What ``run`` returns, which only launches kernels: by these alone from the third call on.

        The first call makes everything ready, the second is traced. One that does other work after all
        is run each time.

        Args:
            options: whatever the launches depend on beside the tensors.
            tensors: all that ``run`` reads; shape, strides, dtype, device and alignment count.
            run: makes its result, of whole tensors, by launches of :class:`Ready`.
        """
        device = tensors[0].device
        stream = stream_of(device) if device.type == "cuda" else 0
        key = ("call", options, stream, *_alike(tensors))
        found = self._made.get(key)
        if type(found) is Repeat:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                self._captured.append(found)
            return found(*tensors)
        with self:
            if self._capturing or found is _OTHERWISE:
                return run()
            if found is None:
                result = run()
                self._keep(key, _ONCE)
                return result
            with Trace() as self.trace:
                try:
                    result = run()
                finally:
                    trace, self.trace = self.trace, None
            self._keep(key, trace.repeat(tensors, result, stream) or _OTHERWISE)
            return result


_ONCE, _OTHERWISE = "ran once", "does more than launch"

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
    return active.find((name, options, *_alike(tensors)), make)


def _alike(tensors: Sequence[Tensor]) -> list[Hashable]:
    """What launches on tensors depend on, but for their addresses."""
    return [(one.shape, one.stride(), one.dtype, one.device, one.data_ptr() % 16) for one in tensors]


def _capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def counter_on(device: torch.device) -> Tensor:
    """A zero that programs draw their tiles from; the last one to end puts it back to zero.

    Launches on one stream may share it, so what holds it is kept for :func:`stream_of` the device.
    """
    return torch.zeros(1, dtype=torch.int32, device=device)


def stream_of(device: torch.device) -> int:
    """The driver's handle of a GPU's current stream."""
    # What torch.cuda.current_stream wraps in an object, which takes ten times as long.
    stream: int = torch._C._cuda_getCurrentRawStream(device.index)
    return stream


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
        self._launch: Callable[..., Any] | None = None
        self._rest: tuple[Any, ...] = ()
        self._direct: tuple[Addresses, DirectLaunch] | None = None
        self.kernel: Kernel | None = None
        """For launches by the driver, once it is compiled and where that is possible."""

    def __call__(self, *tensors: Tensor) -> None:
        """Launch on the current stream."""
        active = _ACTIVE.get()
        if active is not None and active.trace is not None:
            active.trace.launch(self, tensors)
        else:
            self.run(*tensors)

    def run(self, *tensors: Tensor) -> None:
        """Launch, whoever takes note of launches."""
        if self._direct is not None:
            addresses, launch = self._direct
            addresses.write([one.data_ptr() for one in tensors])
            launch.on(stream_of(tensors[0].device))
            launch()
            return
        args: list[Any] = list(tensors)
        for place, descriptor in self._descriptors:
            descriptor.base = args[place]
            args[place] = descriptor
        if self._launch is not None:
            self._launch(*args, *self._rest)
        else:
            self._launch_first(args)
        for _, descriptor in self._descriptors:
            descriptor.base = None  # else the tensor would live on

    def _launch_first(self, args: list[Any]) -> None:
        compiled = self._kernel[self._grid](*args, *self._numbers, **self._constants)
        if compiled is None:
            return  # the interpreter compiles nothing
        names = self._kernel.arg_names
        constants = [self._constants[one] for one in names if one in self._constants]
        self._rest = (*self._numbers, *constants)
        assert len(args) + len(self._rest) == len(names), f"arguments of {names}"
        self._launch = compiled[self._grid]
        descriptors = dict(self._descriptors)
        self.kernel = direct_kernel(compiled, self._grid, self._numbers, descriptors)
        if self.kernel is not None:
            addresses = Addresses(self.kernel.tensors)
            launch = DirectLaunch(self.kernel, addresses, range(self.kernel.tensors))
            self._direct = addresses, launch
