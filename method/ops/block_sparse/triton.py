"""Block-sparse attention as one Triton kernel: the GPU back end.

One program computes one query row (128 tokens) of one head: it walks the row's list of key
blocks with an online softmax. Blocks wholly in the past need no token mask; the one or two blocks
that hold the diagonal come last in the ascending list and pay for it.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from method.blocks import BLOCK, BlockMask
from method.ops.block_sparse.prepared import attend_prepared
from method.ops.checks import check_attention, check_mask
from method.ops.launch import Ready, kept
from method.ops.softmax import add_tile
from method.ops.triton_support import (
    Launch,
    aligned,
    capability,
    check_triton,
    launch_for,
    padded_head,
    unit_stride,
)

LOG2_E = 1.4426950408889634


@triton.jit
def _load_tile(
    k_head, v_head, start, stride_kl, stride_vl, k_len,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys ``[PADDED, BLOCK_N]`` and values ``[BLOCK_N, PADDED]`` from token ``start`` on."""
    tokens = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, PADDED)
    k_ptrs = k_head + start.to(tl.int64) * stride_kl + tokens[None, :] * stride_kl + dims[:, None]
    v_ptrs = v_head + start.to(tl.int64) * stride_vl + tokens[:, None] * stride_vl + dims[None, :]
    if MASKED:
        inside = start + tokens < k_len
        k = tl.load(k_ptrs, mask=inside[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
        v = tl.load(v_ptrs, mask=inside[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    elif PADDED != HEAD_DIM:
        k = tl.load(k_ptrs, mask=(dims < HEAD_DIM)[:, None], other=0.0)
        v = tl.load(v_ptrs, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    else:
        k = tl.load(k_ptrs)
        v = tl.load(v_ptrs)
    return k, v


@triton.jit
def attend_tile(
    acc, peak, norm, q, keys, values, item, kv_head, start, stride_kl, stride_vl, query_at, k_len,
    factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Add ``BLOCK_N`` keys from token ``start`` on to the running softmax of a query row."""
    # q and acc are [ROW, PADDED], peak and norm [ROW]; k is [PADDED, BLOCK_N], v [BLOCK_N, PADDED].
    key_at = start + tl.arange(0, BLOCK_N)
    if TMA:
        # The copy engine fills what lies past the tensors' ends with zeros.
        k = tl.reshape(keys.load([item, kv_head, start, 0]), (BLOCK_N, PADDED)).T
        v = tl.reshape(values.load([item, kv_head, start, 0]), (BLOCK_N, PADDED))
    else:
        k, v = _load_tile(
            keys, values, start, stride_kl, stride_vl, k_len, HEAD_DIM, PADDED, BLOCK_N, MASKED
        )
    # [ROW, BLOCK_N], and so are the weights.
    logits = tl.dot(q, k, input_precision=PRECISION)
    if MASKED:
        seen = (key_at[None, :] <= query_at[:, None]) & (key_at < k_len)[None, :]
        logits = tl.where(seen, logits, float("-inf"))
    return add_tile(acc, peak, norm, logits, v, factor, MASKED, PRECISION)


@triton.jit
def sparse_attention_kernel(
    q_ptr, keys_ptr, values_ptr, out_ptr, lse_ptr, index_ptr, count_ptr,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    stride_vb, stride_vh, stride_vl, stride_ob, stride_oh, stride_ol,
    stride_ib, stride_ih, stride_ir, stride_cb, stride_ch, stride_cr,
    heads, group, q_len, k_len, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROW: tl.constexpr, BLOCK_N: tl.constexpr,
    WITH_LSE: tl.constexpr, PRECISION: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hq, rows)``; the longest rows start first. ``factor`` is ``scale * log2(e)``.

    With ``TMA`` the keys and values are tensor descriptors with blocks ``[1, 1, BLOCK_N, PADDED]``
    instead of pointers.
    """
    SPLIT: tl.constexpr = ROW // BLOCK_N
    row = tl.num_programs(1) - 1 - tl.program_id(1)
    item = (tl.program_id(0) // heads).to(tl.int64)
    head = (tl.program_id(0) % heads).to(tl.int64)
    kv_head = head // group
    # Queries of the row [ROW, PADDED]; what is past the end or the head size is 0.
    tokens = row * ROW + tl.arange(0, ROW)
    dims = tl.arange(0, PADDED)
    live = (tokens < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
    q_head = q_ptr + item * stride_qb + head * stride_qh
    q = tl.load(q_head + tokens.to(tl.int64)[:, None] * stride_ql + dims[None, :], mask=live, other=0.0)
    if TMA:
        keys = keys_ptr
        values = values_ptr
    else:
        keys = keys_ptr + item * stride_kb + kv_head * stride_kh
        values = values_ptr + item * stride_vb + kv_head * stride_vh
    blocks = index_ptr + item * stride_ib + head * stride_ih + row.to(tl.int64) * stride_ir
    count = tl.load(count_ptr + item * stride_cb + head * stride_ch + row.to(tl.int64) * stride_cr)

    # Blocks before `border` end at or before the row's first query. The list ascends, so they
    # come first; the rest is found by stepping back from the end.
    border = (row * ROW + k_len - q_len + 1) // ROW
    interior = count
    tail = tl.load(blocks + interior - 1, mask=interior > 0, other=-1)
    while tail >= border:
        interior -= 1
        tail = tl.load(blocks + interior - 1, mask=interior > 0, other=-1)

    query_at = tokens + (k_len - q_len)
    # Running softmax: maximum in base 2 (m_i), sum of weights (l_i), weighted values [ROW, PADDED].
    peak = tl.full([ROW], float("-inf"), tl.float32)
    norm = tl.zeros([ROW], tl.float32)
    acc = tl.zeros([ROW, PADDED], tl.float32)
    batch_at = tl.program_id(0) // heads
    kv_at = (tl.program_id(0) % heads) // group
    for step in range(0, interior * SPLIT):
        start = tl.load(blocks + step // SPLIT) * ROW + (step % SPLIT) * BLOCK_N
        acc, peak, norm = attend_tile(
            acc, peak, norm, q, keys, values, batch_at, kv_at, start, stride_kl, stride_vl,
            query_at, k_len, factor, HEAD_DIM, PADDED, BLOCK_N, False, PRECISION, TMA,
        )  # fmt: skip
    for step in range(interior * SPLIT, count * SPLIT):
        start = tl.load(blocks + step // SPLIT) * ROW + (step % SPLIT) * BLOCK_N
        acc, peak, norm = attend_tile(
            acc, peak, norm, q, keys, values, batch_at, kv_at, start, stride_kl, stride_vl,
            query_at, k_len, factor, HEAD_DIM, PADDED, BLOCK_N, True, PRECISION, TMA,
        )  # fmt: skip

    seen_any = norm > 0.0
    acc = acc / tl.where(seen_any, norm, 1.0)[:, None]
    out_head = out_ptr + item * stride_ob + head * stride_oh
    out_ptrs = out_head + tokens.to(tl.int64)[:, None] * stride_ol + dims[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=live)
    if WITH_LSE:
        # Back from base 2: multiply by ln 2.
        lse = (peak + tl.log2(tl.where(seen_any, norm, 1.0))) * 0.6931471805599453
        lse = tl.where(seen_any, lse, float("-inf"))
        lse_head = lse_ptr + (item * heads + head) * q_len
        tl.store(lse_head + tokens, lse, mask=tokens < q_len)


def block_sparse_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    *,
    scale: float,
    with_lse: bool = False,
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Exact attention over the kept blocks, without waiting for the device.

    Args:
        query: ``[B, Hq, Lq, D]`` bf16, fp16 or fp32 with D in {64, 96, 128}, any strides.
        key: ``[B, Hkv, Lk, D]``, KV heads not repeated.
        value: ``[B, Hkv, Lk, D]``.
        mask: kept blocks for these lengths.
        scale: positive factor on the logits.
        with_lse: also return the log-sum-exp.
        launch: settings to use instead of the chip's own; for tuning.

    Returns:
        Output ``[B, Hq, Lq, D]`` in the query's dtype (a transposed view of a contiguous
        ``[B, Lq, Hq, D]``) and, if asked for, the natural log-sum-exp fp32 ``[B, Hq, Lq]``. A
        query that sees no key gets output 0 and LSE ``-inf``.

    Raises:
        ValueError: shapes, lengths, devices or head size do not fit.
        TypeError: dtypes differ or are not supported.
    """
    options = scale, with_lse, launch
    tensors = query, key, value, mask.indices, mask.counts
    run, copied = kept(
        "block_sparse_triton",
        tensors,
        (*options, mask.q_len, mask.k_len),
        lambda: _prepare(query, key, value, mask, *options),
    )
    return attend_prepared(run, copied, (query, key, value), mask, with_lse)


def _prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask,
    scale: float,
    with_lse: bool,
    launch: Launch | None,
) -> tuple[Ready, list[bool]]:
    """The launch for such tensors, and which of query, key and value must be copied."""
    check_attention(query, key, value, scale)
    check_mask(query, key, mask)
    check_triton(query, "block_sparse_triton")
    batch, heads, q_len, dim = query.shape
    launch = launch or launch_for("sparse", capability(query.device), dim, query.dtype)
    wanted = aligned if launch.tma else unit_stride
    usable = unit_stride(query), wanted(key), wanted(value)
    output_strides = q_len * heads * dim, dim, heads * dim
    block = [1, 1, launch.block_n, padded_head(dim)]
    run = Ready(
        sparse_attention_kernel,
        (batch * heads, mask.rows),
        (
            *(stride for one in usable for stride in one.stride()[:3]), *output_strides,
            *unit_stride(mask.indices).stride()[:3], *mask.counts.stride(),
            heads, heads // key.shape[1], q_len, mask.k_len, scale * LOG2_E,
        ),
        {
            "HEAD_DIM": dim, "PADDED": padded_head(dim), "ROW": BLOCK, "BLOCK_N": launch.block_n,
            "WITH_LSE": with_lse, "PRECISION": "ieee" if query.dtype == torch.float32 else "tf32",
            "TMA": launch.tma, "num_warps": launch.num_warps, "num_stages": launch.num_stages,
        },
        {place: descriptor(usable[place], block) for place in (1, 2)} if launch.tma else None,
    )  # fmt: skip
    own = zip(usable, (query, key, value), strict=True)
    return run, [one.data_ptr() != given.data_ptr() for one, given in own]


def descriptor(tensor: Tensor, block: list[int]) -> TensorDescriptor:
    """Tensor descriptor of ``[B, H, L, D]`` for loads of ``block``; a copy where strides do not fit.

    The copy engine wants addresses and strides in multiples of 16 bytes.
    """
    tensor = aligned(tensor)
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)
