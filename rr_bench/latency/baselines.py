"""What the shared kernel is compared with: dense back ends, and other block-sparse kernels."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from method.blocks import BlockMask
from method.ops.block_sparse.fa4 import ListsFA4, check_fa4
from method.ops.dense import dense_prefill
from rr_bench.store.environment import package_versions

Attend = Callable[[Tensor, Tensor, Tensor, BlockMask, float], Tensor]
DenseAttend = Callable[[Tensor, Tensor, Tensor, float], Tensor]

PYTORCH = {
    "cudnn": (SDPBackend.CUDNN_ATTENTION, can_use_cudnn_attention),
    "fa2": (SDPBackend.FLASH_ATTENTION, can_use_flash_attention),
}
"""Back ends of PyTorch's own dense attention."""

PACKAGES = {
    "fa3": ("flash_attn_interface", "fa3_fwd_interface"),
    "fa4": ("flash_attn.cute.interface",),
}
"""FlashAttention-3 and -4: modules that may have ``flash_attn_func``, the first that is there is taken.

FlashAttention-3 is its authors' own build, or the wheel ``fa3-fwd``; FlashAttention-4 is the wheel
``flash-attn-4``.
"""

DISTRIBUTIONS = ("flash-attn-3", "fa3-fwd", "flash-attn-4", "nvidia-cutlass-dsl", "quack-kernels")
"""Distributions behind ``PACKAGES``."""

CPU = "cpu-flash"
BASELINES = (*PYTORCH, *PACKAGES, CPU)


class Absent(RuntimeError):
    """Something to compare with is not there on this machine; the message says why."""


def versions() -> dict[str, str]:
    """Versions of the installed packages among ``DISTRIBUTIONS``."""
    found = package_versions(*DISTRIBUTIONS)
    return {name: version for name, version in found.items() if version != "not installed"}


def dense_attention(name: str, query: Tensor, key: Tensor, value: Tensor) -> DenseAttend:
    """One of ``BASELINES``, ready for inputs like these.

    Args:
        name: the back end.
        query: ``[1, Hq, L, D]``.
        key: ``[1, Hkv, L, D]``.
        value: ``[1, Hkv, L, D]``.

    Returns:
        Causal attention of query, key, value and the factor on the logits: ``[1, Hq, L, D]``.

    Raises:
        Absent: it is not installed, or cannot run here.
    """
    if (name == CPU) == query.is_cuda:
        raise Absent("needs a CPU" if name == CPU else "needs a GPU")
    if name == CPU:
        return lambda q, k, v, scale: dense_prefill(q, k, v, scale)[0]
    if name in PACKAGES:
        major = torch.cuda.get_device_capability(query.device)[0]
        if major < 9 or (name == "fa3" and major > 9):
            raise Absent(f"does not run on a device of compute capability {major}")
        if query.dtype not in (torch.bfloat16, torch.float16):
            raise Absent(f"takes 16-bit floats only; the inputs are {query.dtype}")
        return by_token(packaged(name))
    backend, usable = PYTORCH[name]
    gqa = query.shape[1] != key.shape[1]
    if not usable(SDPAParams(query, key, value, None, 0.0, True, gqa)):
        raise Absent("PyTorch cannot run these inputs on it here")

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)

    return attend


def packaged(name: str) -> Callable[..., Any]:
    """``flash_attn_func`` of the first of a back end's modules that can be imported.

    Raises:
        Absent: there is none, or its own dependencies are not there; the message says which.
    """
    reasons = []
    for module in PACKAGES[name]:
        try:
            function: Callable[..., Any] = import_module(module).flash_attn_func
            return function
        except (ImportError, OSError) as error:
            missing = getattr(error, "name", None) or ""
            absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}.")
            reasons.append(
                f"{module} is not installed" if absent else f"{module} does not import: {error}"
            )
    raise Absent("; ".join(reasons))


def by_token(run: Callable[..., Any]) -> DenseAttend:
    """A ``flash_attn_func``, which takes ``[1, L, H, D]`` and may return more than the output."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        answer = run(*(one.transpose(1, 2) for one in (q, k, v)), softmax_scale=scale, causal=True)
        output: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return output.transpose(1, 2)

    return attend


def flex() -> Attend:
    """PyTorch's compiled ``flex_attention`` on the same blocks."""
    compiled = torch.compile(flex_attention, dynamic=False)

    def convert(mask: BlockMask) -> DenseAttend:
        blocks = mask.to_flex()
        return lambda q, k, v, scale: compiled(q, k, v, block_mask=blocks, scale=scale, enable_gqa=True)

    return keeping(convert)


def fa4() -> Attend:
    """FlashAttention-4's block-sparse kernel on the same blocks.

    Raises (at a call):
        Absent: it is not installed, or cannot run the inputs.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        try:
            check_fa4(query)
        except (ValueError, TypeError) as error:
            raise Absent(str(error)) from error
        return converted(query, key, value, mask, scale)

    converted = keeping(ListsFA4)
    return attend


def keeping(convert: Callable[[BlockMask], DenseAttend]) -> Attend:
    """Attention on masks that are converted on first use and kept: a timed call does not pay for it."""
    # The mask is held as well: its id stays its own as long as it lives.
    masks: dict[int, tuple[BlockMask, DenseAttend]] = {}

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        if id(mask) not in masks:
            masks[id(mask)] = mask, convert(mask)
        return masks[id(mask)][1](query, key, value, scale)

    return attend


RIVALS: dict[str, Callable[[], Attend]] = {"flex_attention": flex, "fa4": fa4}
"""Block-sparse kernels of others, by their back end in the table."""
