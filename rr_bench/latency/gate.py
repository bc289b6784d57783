"""The parity gate: nothing is timed before its result agrees with another implementation's."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from method.attention import SparsePrefill, block_sparse_attention, resolve_backend
from method.base import Method
from method.blocks import BlockMask
from method.keep import KeepPolicy
from method.ops.block_sparse.reference import reference_attention
from method.ops.block_sparse.torch import block_sparse_torch
from rr_bench.latency.inputs import Inputs, Shape, random_inputs, random_mask

TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 2e-3}
"""Largest relative error of an output, by its dtype; fp32 products may run as TF32."""

MOVED = 0.02
"""Largest share of blocks that a selection may choose otherwise than its PyTorch twin: estimates
differ in rounding, so blocks at the edge of a threshold move."""

RAGGED = 1000
"""Tokens of the short check: not a multiple of the block."""

RAGGED_SELECTION = 3000


class GateFailed(RuntimeError):
    """A result is too far from the truth to be timed."""

    def __init__(self, what: str, error: float, tolerance: float) -> None:
        super().__init__(f"parity gate: {what} {error:.3g} above {tolerance:.3g}")
        self.error = error


class Gate:
    """The checks of one experiment that several rows share, each made once.

    Args:
        backend: setting ``backend`` of the executor.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._passed: dict[Hashable, float | None] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float
    ) -> Tensor:
        """The executor on a mask."""
        return block_sparse_attention(query, key, value, mask, scale=scale, backend=self.backend)

    def kernel(self, inputs: Inputs) -> str:
        """Name of the executor's kernel, once it passed :func:`check_ragged` on this shape of head."""
        shape = replace(inputs.shape, length=0)
        if shape not in self._passed:
            self._passed[shape] = check_ragged(self.attend, inputs.shape, inputs.device)
        return resolve_backend(inputs.tensors[0], self.backend)

    def truth(self, inputs: Inputs, mask: BlockMask) -> Tensor:
        """What another kernel than the executor's makes of a mask."""
        if inputs.truth is None or inputs.truth[0] is not mask:
            inputs.truth = None  # two of them may not fit into memory
            run = other_kernel(self.kernel(inputs), inputs.tensors[0])
            inputs.truth = mask, run(*inputs.tensors, mask, scale=inputs.shape.scale)
        return inputs.truth[1]

    def selection(self, method: Method, keep: KeepPolicy, inputs: Inputs) -> float | None:
        """:func:`check_selection`, made once for every shape of head."""
        shape, layer = replace(inputs.shape, length=0), inputs.layer
        # Equal settings of two methods are two cases, so the class counts.
        case = type(method), str(method), keep, shape, layer
        if case not in self._passed:
            self._passed[case] = check_selection(method, keep, inputs.shape, layer, inputs.device)
        return self._passed[case]


def relative_error(output: Tensor, truth: Tensor) -> float:
    """Relative error in the Euclidean norm, head by head to save memory; infinite if not finite.

    Args:
        output: ``[B, Hq, L, D]``.
        truth: the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if output.shape != truth.shape:
        raise ValueError(f"output {tuple(output.shape)} where {tuple(truth.shape)} was expected")
    wrong = torch.zeros((), dtype=torch.float64, device=output.device)
    norm = torch.zeros_like(wrong)
    for head in range(output.shape[1]):
        exact = truth[:, head].double()
        wrong += (output[:, head].double() - exact).square().sum()
        norm += exact.square().sum()
    # Not a number and infinity are kept by the sum.
    error = float((wrong / norm).sqrt())
    return error if error < float("inf") else float("inf")


def poison(device: torch.device) -> None:
    """Leave NaN in GPU memory that is about to be handed out, so that an unwritten output shows."""
    if device.type == "cuda":
        for size in (1 << 28, 1 << 26, 1 << 24, 1 << 22):
            torch.full((size,), float("nan"), dtype=torch.float32, device=device)


def check_output(output: Tensor, truth: Tensor) -> float:
    """Relative error of an output.

    Raises:
        GateFailed: it is above the dtype's tolerance.
    """
    error, tolerance = relative_error(output, truth), TOLERANCES[output.dtype]
    if not error <= tolerance:
        raise GateFailed("relative error", error, tolerance)
    return error


def check_ragged(attend: Callable[..., Tensor], shape: Shape, device: torch.device) -> float:
    """Compare a block-sparse kernel with the naive reference on a short ragged prompt.

    Args:
        attend: takes query, key, value, mask and scale.
        shape: heads, head size and dtype to check at.
        device: where.

    Raises:
        GateFailed: the error is above the tolerance.
    """
    short = replace(shape, length=RAGGED)
    query, key, value = random_inputs(short, device, seed=1)
    mask = random_mask(short, 0.6, device, seed=1)
    truth, _ = reference_attention(query, key, value, mask, scale=short.scale)
    poison(device)
    return check_output(attend(query, key, value, mask, short.scale), truth)


def other_kernel(kernel: str, query: Tensor) -> Callable[..., Tensor]:
    """A block-sparse kernel other than the executor's own, to compare large outputs with.

    Args:
        kernel: name of the executor's.
        query: of the inputs.

    Returns:
        A function of query, key, value, mask and ``scale``: the portable Triton kernel; where that
        is the executor's or there is no GPU, the PyTorch twin, and in its place the reference.
    """
    if query.is_cuda and kernel != "triton":
        return lambda *args, scale: block_sparse_attention(*args, scale=scale, backend="triton")
    if kernel != "torch":
        return block_sparse_torch
    return lambda *args, scale: reference_attention(*args, scale=scale)[0]


def check_selection(
    method: Method, keep: KeepPolicy, shape: Shape, layer: int, device: torch.device
) -> float | None:
    """Compare a selection with its PyTorch twin on a short ragged prompt.

    Args:
        method: its setting ``estimator`` is turned to "torch" for the twin.
        keep: blocks that must be kept.
        shape: heads, head size and dtype to check at.
        layer: index of the layer.
        device: where.

    Returns:
        Share of the blocks chosen otherwise; ``None`` for a method without an estimator, which
        computes nothing that could round.

    Raises:
        GateFailed: the share is above ``MOVED``.
    """
    if "estimator" not in _settings(method):
        return None
    short = replace(shape, length=RAGGED_SELECTION)
    query, key, _ = random_inputs(short, device, seed=5)
    # Sharper than random logits, as real ones are.
    given: dict[str, Any] = {"scale": short.scale, "layer": layer, "keep": keep}
    truth = _with(method, estimator="torch").select(query * 3, key, **given)
    poison(device)
    found = method.select(query * 3, key, **given)
    kept = truth.counts.sum(dtype=torch.int64)
    moved = float((found.to_map() ^ truth.to_map()).sum() / kept)
    if not moved <= MOVED:
        raise GateFailed("share of blocks moved", moved, MOVED)
    return moved


def check_native(
    method: Method, keep: KeepPolicy, shape: Shape, layer: int, device: torch.device
) -> float:
    """Compare a method's own kernel with dense attention, its knob turned until it is dense.

    Raises:
        GateFailed: the error is above the tolerance.
        ValueError: the method has no knob.
    """
    if method.knob is None:
        raise ValueError("a kernel of its own without a knob cannot be checked, so it is not timed")
    short = replace(shape, length=RAGGED)
    query, key, value = random_inputs(short, device, seed=1)
    mask = BlockMask.causal(1, shape.heads, RAGGED, RAGGED, device)
    truth, _ = reference_attention(query, key, value, mask, scale=short.scale)
    most = _with(method, **{method.knob.name: method.knob.high})
    poison(device)
    result = SparsePrefill(most, keep)(query, key, value, scale=short.scale, layer=layer)
    return check_output(result.output, truth)


def _settings(method: Method) -> set[str]:
    return {item.name for item in fields(method)}  # type: ignore[arg-type]


def _with(method: Method, **changes: Any) -> Method:
    """The method with other settings; methods are dataclasses."""
    return replace(method, **changes)  # type: ignore[type-var]
