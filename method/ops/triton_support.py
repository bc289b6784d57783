"""What the Triton kernels share: supported inputs, and launch settings by chip and head size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

HEAD_DIMS = (64, 96, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def interpreting() -> bool:
    """Whether Triton runs kernels through its interpreter (``TRITON_INTERPRET=1``)."""
    return bool(triton.knobs.runtime.interpret)


def check_triton(tensor: Tensor, what: str) -> None:
    """Check that the Triton kernels can run on ``tensor`` (``[..., D]``).

    Raises:
        ValueError: the device or the head size is not supported.
        TypeError: the dtype is not supported (bf16 also under the interpreter, whose bf16
            arithmetic is wrong without saying so).
    """
    if not tensor.is_cuda and not interpreting():
        raise ValueError(
            f"{what}: Triton kernels need CUDA tensors, got {tensor.device}; use backend=torch on a "
            "CPU, or TRITON_INTERPRET=1 to test the kernels there"
        )
    if tensor.shape[-1] not in HEAD_DIMS:
        raise ValueError(
            f"{what}: head size {tensor.shape[-1]} is not supported by the Triton kernels "
            f"(supported: {', '.join(map(str, HEAD_DIMS))}); use backend=torch"
        )
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{what}: {tensor.dtype} is not supported (bfloat16, float16, float32)")
    if tensor.dtype == torch.bfloat16 and interpreting():
        raise TypeError(
            f"{what}: Triton's interpreter computes bfloat16 wrongly; use float32 or float16 there"
        )


def capability(device: torch.device) -> int:
    """Compute capability as one number (90 for 9.0); 0 where there is no GPU."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def overlaps(device: torch.device) -> bool:
    """Whether a kernel may start before the one ahead of it has ended (programmatic dependent launch).

    Such a kernel is launched with ``launch_pdl`` and waits (``gdc_wait``) before it reads what kernels
    ahead of it write, and before it writes anything. As long as all of them wait, everything
    ahead has ended when one returns from its wait. The one ahead says from when on
    (``gdc_launch_dependents``); without that it is when it has ended.
    """
    return capability(device) >= 90 and not interpreting()


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is contiguous, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def aligned(tensor: Tensor) -> Tensor:
    """A view of the tensor that the copy engine can read, else a contiguous copy.

    It wants the last dimension contiguous, and the address and all other strides in multiples of 16
    bytes. The stride of a dimension of size 1 is never used and may be anything.
    """
    unit = 16 // tensor.element_size()
    strides = [
        stride if size > 1 else tensor[..., 0].numel() * unit
        for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    ]
    if tensor.stride(-1) != 1 or tensor.data_ptr() % 16 or any(s % unit or not s for s in strides):
        return tensor.contiguous()
    return tensor.as_strided(tensor.shape, (*strides, 1))


@dataclass(frozen=True)
class Launch:
    """Launch settings of one kernel.

    Attributes:
        block_n: tokens (or strides) per step.
        num_warps: warps per program.
        num_stages: pipeline stages.
        tma: load keys and values by tensor descriptor (9.0 and newer).
        max_registers: registers per thread, fewer than the compiler would take, so that more programs
            share a multiprocessor. None leaves it to the compiler.
    """

    block_n: int
    num_warps: int
    num_stages: int
    tma: bool = False
    max_registers: int | None = None


# For 16-bit inputs: (lowest, highest capability), then settings by padded head size. The last row
# is for chips with about 100 KB of shared memory per block (8.6, 8.9, 12.0) and for older ones.
_SPARSE = (
    ((90, 110), {64: Launch(128, 8, 3), 128: Launch(64, 8, 3)}),
    ((80, 80), {64: Launch(64, 4, 3), 128: Launch(64, 8, 2)}),
    ((0, 999), {64: Launch(64, 4, 2), 128: Launch(32, 8, 2)}),
)
_ESTIMATE = (
    ((90, 110), {64: Launch(128, 8, 3), 128: Launch(128, 8, 2)}),
    ((80, 80), {64: Launch(64, 4, 3), 128: Launch(64, 8, 3)}),
    ((0, 999), {64: Launch(64, 4, 2), 128: Launch(32, 8, 2)}),
)
_FLOAT32 = Launch(32, 8, 1)
_INTERPRETER = Launch(64, 4, 1)
_TABLES = {"sparse": _SPARSE, "estimate": _ESTIMATE}


def padded_head(head_dim: int) -> int:
    """Head size rounded up to a power of two, as Triton's tiles need it."""
    return triton.next_power_of_2(head_dim)


def launch_for(kernel: str, chip: int, head_dim: int, dtype: torch.dtype) -> Launch:
    """Launch settings of ``kernel`` ("sparse" or "estimate") on a chip of capability ``chip``.

    Float32 needs twice the shared memory of the 16-bit types and takes one setting for all; so
    does the interpreter (``chip`` 0), where time goes by the step, not by its size.
    """
    if not chip:
        return _INTERPRETER
    if dtype == torch.float32:
        return _FLOAT32
    table = _TABLES[kernel]
    return next(row for (low, high), row in table if low <= chip <= high)[padded_head(head_dim)]
