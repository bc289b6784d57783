"""Block importance from sampled queries and exact keys, in Triton.

Sampled queries meet every key, which costs 1 / S of dense attention's first product: too much to do it
twice for a softmax in two passes. So the first kernel leaves one number for every (sample, key block),
the log-sum-exp of its logits, and the second turns them into shares of the sample and reduces these
over the samples of a query row. No logits are written: the numbers are 128 times fewer, 4 bytes each,
which at 128K and S = 16 makes 32 MiB per head, written and read once, beside some 10 ms of products for
32 heads. Steps of the first kernel do not depend on each other: there is no running softmax, and a
row can be cut anywhere to fill the chip.
:mod:`method.ops.rr_scores.torch` is the readable twin and explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK, num_blocks
from method.ops.block_sparse.triton import descriptor
from method.ops.checks import check_qk
from method.ops.rr_scores.problem import LOG2_E
from method.ops.rr_scores.torch import sample_starts
from method.ops.triton_support import Launch, capability, check_triton, padded_head, unit_stride

PIECE = 32
"""Key blocks of one program: enough to be worth loading its queries, few enough to fill the chip."""

_ROOM = 1 << 28


def launch_exact(chip: int, dtype: torch.dtype) -> tuple[int, Launch]:
    """Samples of a tile and launch settings on a chip of capability ``chip`` (0: the interpreter).

    On 9.0 and 10.0 two programs share a multiprocessor: one multiplies while the other takes
    exponentials. A step takes a whole key block, so that its sum stays within a program.
    """
    if dtype == torch.float32 or not chip:
        return 32, Launch(BLOCK, 4, 1)
    if 90 <= chip < 120:
        return 128, Launch(BLOCK, 8, 2, max_registers=128)
    return (128, Launch(BLOCK, 8, 2)) if chip == 80 else (64, Launch(BLOCK, 4, 2))


@triton.jit
def _block_lse(logits, factor, GROUP: tl.constexpr, MASKED: tl.constexpr):
    """Base-2 log-sum-exp of each row of ``[M, N]``; of the largest of every ``GROUP`` columns."""
    if GROUP > 1:
        shape: tl.constexpr = (logits.shape[0], logits.shape[1] // GROUP, GROUP)
        logits = tl.max(tl.reshape(logits, shape), 2)
    peak = tl.max(logits, 1) * factor
    if MASKED:
        # Where nothing is seen, 0 in place of -inf keeps the arithmetic finite.
        peak = tl.where(peak == float("-inf"), 0.0, peak)
    total = tl.sum(tl.exp2(logits * factor - peak[:, None]), 1)
    if MASKED:
        some = tl.where(total > 0, total, 1.0)
        return tl.where(total > 0, peak + tl.log2(some), float("-inf"))
    return peak + tl.log2(total)


@triton.jit
def load_keys(
    keys, at, stride, end,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Keys ``[PADDED, N]`` of the places ``at`` of a head; zeros from ``end`` on if ``MASKED``."""
    dims = tl.arange(0, PADDED)
    ptrs = keys + at.to(tl.int64)[None, :] * stride + dims[:, None]
    if MASKED:
        k = tl.load(ptrs, mask=(at < end)[None, :] & (dims < HEAD_DIM)[:, None], other=0.0)
    elif PADDED != HEAD_DIM:
        k = tl.load(ptrs, mask=(dims < HEAD_DIM)[:, None], other=0.0)
    else:
        k = tl.load(ptrs)
    return k


@triton.jit
def _block_logits(
    q, keys, item, kv_head, column, stride_l, k_len,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Products of the samples ``[M, PADDED]`` with one key block: ``[M, BLOCK]``."""
    if TMA:
        # The copy engine fills what lies past the tensor's ends with zeros.
        k = tl.reshape(keys.load([item, kv_head, column * BLOCK, 0]), (BLOCK, PADDED)).T
    else:
        at = column * BLOCK + tl.arange(0, BLOCK)
        k = load_keys(keys, at, stride_l, k_len, HEAD_DIM, PADDED, MASKED)
    return tl.dot(q, k, input_precision=PRECISION)


@triton.jit
def sample_lse_kernel(
    q_ptr, keys_ptr, starts_ptr, lse_ptr, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh,
    stride_kl, first, heads, group, q_len, k_len, samples, columns, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, GROUP: tl.constexpr,
    TILE: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    TMA: tl.constexpr,
):  # fmt: skip
    """Grid ``(tiles of samples, pieces of PIECE key blocks, heads of this call)``.

    Writes ``[heads of this call, columns, samples]``: the base-2 log-sum-exp of each sample over each
    key block that its tile can see; ``-inf`` for what the sample itself cannot. ``samples`` are those
    of whole query rows; one past the last query gets numbers that mean nothing. ``factor`` is
    ``scale * log2(e)``. With ``TMA`` the keys are a tensor descriptor with blocks
    ``[1, 1, BLOCK, PADDED]`` instead of a pointer.
    """
    tile, member = tl.program_id(0), first + tl.program_id(2)
    item, head = (member // heads).to(tl.int64), (member % heads).to(tl.int64)
    shift = k_len - q_len
    start = tl.load(starts_ptr + head).to(tl.int32)
    # Key positions of the tile's first and last sample.
    oldest = tl.minimum(tile * TILE * STRIDE + start + shift, k_len - 1)
    newest = tl.minimum((tile * TILE + TILE - 1) * STRIDE + start + shift, k_len - 1)
    begin = tl.program_id(1) * PIECE
    end = tl.minimum(newest // BLOCK + 1, begin + PIECE)
    if begin >= end:
        return
    sample = tile * TILE + tl.arange(0, TILE)
    token = sample * STRIDE + start
    position = tl.minimum(token + shift, k_len - 1)
    dims = tl.arange(0, PADDED)
    q_ptrs = q_ptr + item * stride_qb + head * stride_qh
    q_ptrs += token.to(tl.int64)[:, None] * stride_ql + dims[None, :]
    q = tl.load(q_ptrs, mask=(token < q_len)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    keys, item_at, kv_head = keys_ptr, member // heads, (member % heads) // group
    if not TMA:
        keys += item * stride_kb + (head // group) * stride_kh
    out = lse_ptr + tl.program_id(2).to(tl.int64) * columns * samples + sample
    line, real = samples.to(tl.int64), sample < samples
    # Key blocks that all samples see whole.
    inner = tl.minimum((oldest + 1) // BLOCK, end)
    for column in range(begin, inner):
        logits = _block_logits(
            q, keys, item_at, kv_head, column, stride_kl, k_len, HEAD_DIM, PADDED, BLOCK, False,
            PRECISION, TMA,
        )  # fmt: skip
        tl.store(out + column * line, _block_lse(logits, factor, GROUP, False), mask=real)
    for column in range(tl.maximum(inner, begin), end):
        logits = _block_logits(
            q, keys, item_at, kv_head, column, stride_kl, k_len, HEAD_DIM, PADDED, BLOCK, True,
            PRECISION, TMA,
        )  # fmt: skip
        at = column * BLOCK + tl.arange(0, BLOCK)
        logits = tl.where(at[None, :] <= position[:, None], logits, float("-inf"))
        tl.store(out + column * line, _block_lse(logits, factor, GROUP, True), mask=real)


@triton.jit
def sample_shares_kernel(
    lse_ptr, starts_ptr, scores_ptr, first, heads, q_len, k_len, rows, columns,
    STRIDE: tl.constexpr, PER: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
    MAXIMUM: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows, heads of this call)``: shares of each sample, reduced over a row's samples."""
    row, member = tl.program_id(0), first + tl.program_id(1)
    # The samples of one row, [PER]; parts of lse and shares are [PER, CHUNK key blocks].
    sample = row * PER + tl.arange(0, PER)
    token = sample * STRIDE + tl.load(starts_ptr + member % heads).to(tl.int32)
    real = token < q_len
    seen = tl.where(real, (token + k_len - q_len) // BLOCK + 1, 0)  # key blocks of each sample
    reach = tl.max(seen, 0)
    lse = lse_ptr + tl.program_id(1).to(tl.int64) * columns * rows * PER + sample[:, None]
    peak = tl.full([PER], float("-inf"), tl.float32)
    norm = tl.zeros([PER], tl.float32)
    for start in range(0, reach, CHUNK):
        at = start + tl.arange(0, CHUNK)
        inside = at[None, :] < seen[:, None]
        ptrs = lse + at.to(tl.int64)[None, :] * (rows * PER)
        part = tl.load(ptrs, mask=inside, other=float("-inf"))
        # Samples past the end would otherwise compute inf - inf.
        part = tl.where(real[:, None], part, 0.0)
        # Key block 0 is visible to all: the peak is finite from the first chunk on.
        new_peak = tl.maximum(peak, tl.max(part, 1))
        norm = norm * tl.exp2(peak - new_peak) + tl.sum(tl.exp2(part - new_peak[:, None]), 1)
        peak = new_peak
    total = tl.where(real, peak + tl.log2(tl.where(norm > 0, norm, 1.0)), 0.0)
    out = scores_ptr + (member.to(tl.int64) * rows + row) * columns
    for start in range(0, columns, CHUNK):
        at = start + tl.arange(0, CHUNK)
        inside = at[None, :] < seen[:, None]
        ptrs = lse + at.to(tl.int64)[None, :] * (rows * PER)
        part = tl.load(ptrs, mask=inside, other=float("-inf"))
        share = tl.exp2(part - total[:, None])
        score = tl.max(share, 0) if MAXIMUM else tl.sum(share, 0)
        tl.store(out + at, score, mask=at < columns)


def exact_scores_triton(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    largest: bool = False,
    over_samples: str = "sum",
    launch: tuple[int, Launch] | None = None,
) -> Tensor:
    """Estimated importance of every (query row, key block) by exact keys, on the GPU.

    Same arguments, errors and result as :func:`method.ops.rr_scores.torch.block_scores` with
    ``keys="exact"``, or ``"largest"``, for bf16, fp16 and fp32 with head size 64, 96 or 128. Works on
    as many heads at a time as fit into 1 GiB of intermediate numbers (at least one).

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]``.
        scale: positive factor on the logits.
        stride: ``S``.
        offset: which query of a stride is sampled.
        layer: index of the decoder layer.
        largest: take the largest key of each stride instead of all.
        over_samples: "sum" or "max".
        launch: see :func:`launch_exact`; for tuning.

    Returns:
        fp32 ``[B, Hq, rows, columns]``.
    """
    check_qk(query, key)
    check_triton(query, "exact_scores_triton")
    query, key = unit_stride(query), unit_stride(key)
    batch, heads, q_len, dim = query.shape
    k_len, per = key.shape[2], BLOCK // stride
    rows, columns = num_blocks(q_len), num_blocks(k_len)
    starts = sample_starts(heads, stride, k_len - q_len, offset, query.device, layer)
    tile, launch_of = launch or launch_exact(capability(query.device), query.dtype)
    scores = query.new_empty(batch, heads, rows, columns, dtype=torch.float32)
    samples, padded = rows * per, padded_head(dim)
    keys = descriptor(key, [1, 1, BLOCK, padded]) if launch_of.tma else key
    together = min(batch * heads, max(1, _ROOM // (samples * columns)))
    lse = query.new_empty(together, columns, samples, dtype=torch.float32)
    for first in range(0, batch * heads, together):
        members = min(together, batch * heads - first)
        sample_lse_kernel[(triton.cdiv(samples, tile), triton.cdiv(columns, PIECE), members)](
            query, keys, starts, lse, *query.stride()[:3], *key.stride()[:3],
            first, heads, heads // key.shape[1], q_len, k_len, samples, columns, scale * LOG2_E,
            HEAD_DIM=dim, PADDED=padded, STRIDE=stride, GROUP=stride if largest else 1,
            TILE=tile, PIECE=PIECE, BLOCK=BLOCK,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32", TMA=launch_of.tma,
            num_warps=launch_of.num_warps, num_stages=launch_of.num_stages,
            maxnreg=launch_of.max_registers,
        )  # fmt: skip
        sample_shares_kernel[(rows, members)](
            lse, starts, scores, first, heads, q_len, k_len, rows, columns,
            STRIDE=stride, PER=per, CHUNK=max(32, 2048 // per), BLOCK=BLOCK,
            MAXIMUM=over_samples == "max",
        )  # fmt: skip
    return scores
