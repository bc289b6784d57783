"""Choices and input checks that methods and kernels share: errors come before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from method.blocks import BLOCK, BlockMask, check_lengths

STRIDES = (4, 8, 16, 32, 64)
"""Strides that estimates can sample by: they divide a block of 128."""

ESTIMATORS = ("auto", "torch", "triton")


def uses_triton(estimator: str, tensor: Tensor) -> bool:
    """Whether ``estimator`` means Triton: "auto" does on a GPU."""
    return estimator == "triton" or (estimator == "auto" and tensor.is_cuda)


def check_choices(method: str, settings: object, **allowed: Sequence[object]) -> None:
    """Raise ``ValueError`` for a setting of a method that is none of its allowed values."""
    for name, values in allowed.items():
        value = getattr(settings, name)
        if value not in values:
            names = ", ".join(map(str, values))
            raise ValueError(f"{method}: {name}={value!r} is not one of {names}")


def check_stride(method: str, stride: int) -> None:
    """Raise ``ValueError`` unless a method's estimate can sample by this stride."""
    if stride not in STRIDES:
        raise ValueError(
            f"{method}: stride={stride} is not one of {', '.join(map(str, STRIDES))} "
            f"(divisors of the block, {BLOCK})"
        )


def check_qk(query: Tensor, key: Tensor) -> None:
    """Check a query and a key that are to be multiplied.

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]`` with ``Lk >= Lq`` and ``Hq`` a multiple of ``Hkv``.

    Raises:
        ValueError: shapes, lengths, head counts or devices do not fit.
        TypeError: dtypes differ or are not floating point.
    """
    if query.dim() != 4 or key.dim() != 4:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must be [B, heads, tokens, D]"
        )
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} differ in batch or head size"
        )
    if query.shape[1] % key.shape[1]:
        raise ValueError(
            f"{query.shape[1]} query heads are not a multiple of {key.shape[1]} KV heads; "
            "pass the KV heads un-repeated"
        )
    check_lengths(query.shape[2], key.shape[2])
    if query.dtype != key.dtype or not query.is_floating_point():
        raise TypeError(f"query is {query.dtype} and key {key.dtype}: one floating dtype is needed")
    if query.device != key.device:
        raise ValueError(f"query is on {query.device} and key on {key.device}")


def check_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
    """Check what exact attention over ``query, key, value`` needs (see :func:`check_qk`)."""
    check_qk(query, key)
    if value.shape != key.shape or value.dtype != key.dtype or value.device != key.device:
        raise ValueError(
            f"value {tuple(value.shape)} {value.dtype} on {value.device} must match key "
            f"{tuple(key.shape)} {key.dtype} on {key.device}"
        )
    if not scale > 0:
        raise ValueError(f"scale={scale}: the factor on the logits must be positive")


def check_mask(query: Tensor, key: Tensor, mask: BlockMask) -> None:
    """Raise ``ValueError`` unless ``mask`` was made for these tensors."""
    if (mask.q_len, mask.k_len) != (query.shape[2], key.shape[2]):
        raise ValueError(
            f"block mask is for q_len={mask.q_len}, k_len={mask.k_len}, but the tensors have "
            f"q_len={query.shape[2]}, k_len={key.shape[2]}"
        )
    if tuple(mask.counts.shape[:2]) != (query.shape[0], query.shape[1]):
        raise ValueError(
            f"block mask is for batch and heads {tuple(mask.counts.shape[:2])}, the query has "
            f"{tuple(query.shape[:2])}"
        )
    if mask.indices.device != query.device or mask.counts.device != query.device:
        raise ValueError(f"block mask is on {mask.indices.device}, the query on {query.device}")
