"""Exact dense attention: the best kernel available, and which one it was."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from method.ops.checks import check_attention

_ROWS = 1024


def dense_prefill(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, str]:
    """Exact causal attention, bottom-right aligned.

    On a GPU the kernels are asked in turn whether they can run these inputs: cuDNN, flash,
    memory-efficient (which needs the KV heads repeated), plain matrix products. With fewer
    queries than keys cuDNN is left out, since it aligns the triangle to the top left.

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]`` with ``Lk >= Lq``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        scale: positive factor on the logits.

    Returns:
        Output ``[B, Hq, Lq, D]`` and the kernel's name: "cudnn", "flash", "efficient", "math", or
        "cpu-flash".

    Raises:
        ValueError: shapes, lengths or devices do not fit.
        TypeError: dtypes differ.
    """
    check_attention(query, key, value, scale)
    if not query.is_cuda:
        return _cpu_prefill(query, key, value, scale), "cpu-flash"
    square = query.shape[2] == key.shape[2]
    name = _gpu_kernel(query, key, value, square)
    if name == "efficient":
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if square:
        with sdpa_kernel(_BACKENDS[name]):
            output = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=name != "efficient"
            )
        return output, name
    # Loads torch's compiler: seconds that only chunks of a prompt need.
    from torch.nn.attention.bias import causal_lower_right

    bias = causal_lower_right(query.shape[2], key.shape[2])
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, scale=scale, enable_gqa=name != "efficient"
    )
    return output, name


_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def _gpu_kernel(query: Tensor, key: Tensor, value: Tensor, square: bool) -> str:
    """Name of the fastest kernel that says it can run these inputs."""
    gqa = query.shape[1] != key.shape[1]
    params = SDPAParams(query, key, value, None, 0.0, square, gqa)
    if square and can_use_cudnn_attention(params):
        return "cudnn"
    if can_use_flash_attention(params):
        return "flash"
    repeated = SDPAParams(query, query, query, None, 0.0, square, False)
    return "efficient" if can_use_efficient_attention(repeated) else "math"


def _cpu_prefill(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """PyTorch's CPU flash kernel; with fewer queries than keys, some query rows at a time."""
    q_len, shift = query.shape[2], key.shape[2] - query.shape[2]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        if not shift:
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=True
            )
        parts = []
        for first in range(0, q_len, _ROWS):
            last = min(first + _ROWS, q_len)
            seen = torch.ones(last - first, last + shift, dtype=torch.bool).tril(first + shift)
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, :, first:last],
                    key[:, :, : last + shift],
                    value[:, :, : last + shift],
                    attn_mask=seen,
                    scale=scale,
                    enable_gqa=True,
                )
            )
        return torch.cat(parts, dim=2)


def dense_decode(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Exact attention of one new token, which sees every key: ``[B, Hq, 1, D]``.

    Args:
        query: ``[B, Hq, 1, D]``.
        key: ``[B, Hkv, Lk, D]``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        scale: positive factor on the logits.

    Raises:
        ValueError: more than one query, or shapes that do not fit.
        TypeError: dtypes differ.
    """
    check_attention(query, key, value, scale)
    if query.shape[2] != 1:
        raise ValueError(f"dense_decode takes one query token, got {query.shape[2]}; use dense_prefill")
    return F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=True)
