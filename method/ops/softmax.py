"""One step of the online softmax, shared by the Triton kernels that attend."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_tile(acc, peak, norm, logits, v, factor, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """Add a tile of keys to the running softmax of some queries.

    ``acc`` is ``[M, D]``, ``peak`` (base 2) and ``norm`` are ``[M]``, ``logits`` ``[M, N]`` and ``v``
    ``[N, D]``; ``factor`` is ``scale * log2(e)``. With ``MASKED`` logits may be ``-inf``.
    """
    new_peak = tl.maximum(peak, tl.max(logits, 1) * factor)
    base = new_peak
    if MASKED:
        # A query that has seen no key yet: subtract 0, so that its weights are exp2(-inf) = 0.
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = tl.exp2(logits * factor - base[:, None])
    shrink = tl.exp2(peak - base)
    norm = norm * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return acc, new_peak, norm
