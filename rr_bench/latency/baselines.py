"""What the shared kernel is compared with: dense attention back ends, and ``flex_attention``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask as FlexBlockMask
from torch.nn.attention.flex_attention import flex_attention

from method.blocks import BlockMask
from method.ops.dense import dense_prefill

Attend = Callable[[Tensor, Tensor, Tensor, BlockMask, float], Tensor]
DenseAttend = Callable[[Tensor, Tensor, Tensor, float], Tensor]

DENSE = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}
"""Back ends of PyTorch's own dense attention."""

PACKAGES = {
    "fa2-package": "flash_attn",
    "fa3": "flash_attn_interface",
    "fa4": "flash_attn.cute",
}
"""Dense attention of separately installed packages, by the module that has ``flash_attn_func``."""

CPU = "cpu-flash"
BASELINES = (*DENSE, *PACKAGES, CPU)


class Absent(RuntimeError):
    """Something to compare with is not there on this machine; the message says why."""


def dense(backend: str) -> Attend:
    """PyTorch's dense causal attention on one of its back ends; the mask is ignored."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        return _sdpa(query, key, value, scale, backend)

    return attend


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float, backend: str) -> Tensor:
    with sdpa_kernel(DENSE[backend]):
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )


def dense_attention(name: str, query: Tensor, key: Tensor, value: Tensor) -> DenseAttend:
    """One of ``BASELINES``, ready for inputs like these.

    Raises:
        Absent: it is not installed, or cannot run here.
    """
    if (name == CPU) == query.is_cuda:
        raise Absent("needs a CPU" if name == CPU else "needs a GPU")
    if name == CPU:
        return lambda q, k, v, scale: dense_prefill(q, k, v, scale)[0]
    if name in DENSE:
        usable = {"cudnn": can_use_cudnn_attention, "fa2": can_use_flash_attention}[name]
        gqa = query.shape[1] != key.shape[1]
        if not usable(SDPAParams(query, key, value, None, 0.0, True, gqa)):
            raise Absent("PyTorch cannot run these inputs on it here")
        return lambda q, k, v, scale: _sdpa(q, k, v, scale, name)
    module = PACKAGES[name]
    root = module.partition(".")[0]
    if find_spec(root) is None or find_spec(module) is None:
        raise Absent(f"{module} is not installed")
    run = import_module(module).flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        by_token = (tensor.transpose(1, 2) for tensor in (q, k, v))
        answer = run(*by_token, softmax_scale=scale, causal=True)
        output = answer[0] if isinstance(answer, tuple) else answer
        return output.transpose(1, 2)

    return attend


def flex() -> Attend:
    """PyTorch's compiled ``flex_attention`` on the same blocks.

    Masks are converted on first use and kept, so that a timed call does not pay for it.
    """
    compiled = torch.compile(flex_attention, dynamic=False)
    # The mask is held as well: its id stays its own as long as it lives.
    masks: dict[int, tuple[BlockMask, FlexBlockMask]] = {}

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        if id(mask) not in masks:
            masks[id(mask)] = mask, mask.to_flex()
        blocks = masks[id(mask)][1]
        return compiled(query, key, value, block_mask=blocks, scale=scale, enable_gqa=True)

    return attend
