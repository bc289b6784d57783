"""RRAttention's estimate of block importance in Triton, with one matrix product.

A softmax needs the sum over a whole row before any of its parts can be added to those of another row.
Rather than multiply twice, a program leaves every chunk's block sums in a scratch buffer of its own,
relative to the chunk's maximum, and weighs and adds them once the row is through. Programs take tiles
of 128 samples in turns and use their buffer over and over, so that it stays in the cache; no logits
are ever written.
:mod:`method.ops.rr_scores.torch` is the readable twin and explains the rule,
:mod:`method.ops.rr_scores.hopper_kernel` the same for Hopper.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from method.blocks import BLOCK
from method.ops.checks import check_qk
from method.ops.launch import Ready, kept, stream_of
from method.ops.rr_scores.exact import exact_scores_triton, load_keys
from method.ops.rr_scores.key_sums import pool_keys_triton
from method.ops.rr_scores.problem import Estimate, Fill
from method.ops.rr_scores.torch import BY_LAYER, WITH_KERNEL, check_options, sample_starts
from method.ops.triton_support import (
    Launch,
    capability,
    check_triton,
    launch_for,
    padded_head,
    unit_stride,
)

SAMPLES = 128


@triton.jit
def _chunk_logits(
    q, keys, start, strides, sample_stride,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of a tile of samples with ``BLOCK_N`` pooled keys; the future is -inf."""
    # q is [BLOCK_M, PADDED], k [PADDED, BLOCK_N]; the logits are [BLOCK_M, BLOCK_N].
    at = start + tl.arange(0, BLOCK_N)
    k = load_keys(keys, at, HEAD_DIM, strides, HEAD_DIM, PADDED, MASKED)
    logits = tl.dot(q, k, input_precision=PRECISION)
    if MASKED:
        seen = (at[None, :] <= sample_stride[:, None]) & (at < strides)[None, :]
        logits = tl.where(seen, logits, float("-inf"))
    return logits


@triton.jit
def _block_sums(
    logits, peak, norm, factor, sums_at, peaks_at,
    PER: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Sums by key block of a chunk's weights, left in scratch; the row's running peak and sum."""
    # weights [BLOCK_M, BLOCK_N] become sums [BLOCK_M, BLOCKS]; peak (m_i) and norm (l_i) are [BLOCK_M].
    BLOCKS: tl.constexpr = BLOCK_N // PER
    # One maximum for the chunk: what underflows beside it weighs less than 2^-126 of the row.
    top = tl.max(logits, 1) * factor
    base = top
    if MASKED:
        base = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp2(logits * factor - base[:, None])
    sums = tl.sum(tl.reshape(weights, (BLOCK_M, BLOCKS, PER)), 2)
    # Stride 0 is visible to every sample, so the peak is finite from the first chunk on.
    new_peak = tl.maximum(peak, top)
    norm = norm * tl.exp2(peak - new_peak) + tl.sum(sums, 1) * tl.exp2(top - new_peak)
    row = tl.arange(0, BLOCK_M)
    tl.store(sums_at + row[:, None] * BLOCKS + tl.arange(0, BLOCKS)[None, :], sums)
    tl.store(peaks_at + row, top)
    return new_peak, norm


@triton.jit
def block_scores_kernel(
    q_ptr, pooled_ptr, starts_ptr, scratch_ptr, scores_ptr, stride_qb, stride_qh, stride_ql,
    members, heads, group, q_len, shift, strides, rows, columns, tiles, chunk_room, factor,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, PER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr, MAXIMUM: tl.constexpr,
):  # fmt: skip
    """Any 1-D grid: programs take the ``members * tiles`` tiles in turns, the longest first.

    ``PER = 128 / S``; ``factor`` is ``scale * log2(e)``; ``chunk_room`` chunks of ``BLOCK_N`` strides
    fit into a program's scratch, which holds their block sums and behind them their maxima. With
    ``MAXIMUM`` a block's score is its largest mass of any sample, else their sum.
    """
    BLOCKS: tl.constexpr = BLOCK_N // PER
    dims = tl.arange(0, PADDED)
    sums_at = scratch_ptr + tl.program_id(0).to(tl.int64) * chunk_room * BLOCK_M * (BLOCKS + 1)
    peaks_at = sums_at + chunk_room * (BLOCK_M * BLOCKS)
    for index in range(tl.program_id(0), members * tiles, tl.num_programs(0)):
        member, tile = index % members, tiles - 1 - index // members
        item = (member // heads).to(tl.int64)
        head = (member % heads).to(tl.int64)
        head_start = tl.load(starts_ptr + head).to(tl.int32)
        # Sampled tokens [BLOCK_M], the strides they lie in, and their queries [BLOCK_M, PADDED].
        token = (tile * BLOCK_M + tl.arange(0, BLOCK_M)) * STRIDE + head_start
        sample_stride = (token + shift) // STRIDE
        real = token < q_len
        q_ptrs = q_ptr + item * stride_qb + head * stride_qh
        q_ptrs += token.to(tl.int64)[:, None] * stride_ql + dims[None, :]
        q = tl.load(q_ptrs, mask=real[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        keys = pooled_ptr + (item * (heads // group) + head // group) * strides * HEAD_DIM
        # Strides that some token of the tile's query rows can see.
        reach = tl.minimum(((tile + 1) * BLOCK_M * STRIDE - 1 + shift) // STRIDE + 1, strides)
        interior = tl.minimum(tl.min(sample_stride, 0) + 1, strides) // BLOCK_N * BLOCK_N
        peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
        norm = tl.zeros([BLOCK_M], tl.float32)
        for start in range(0, interior, BLOCK_N):
            logits = _chunk_logits(
                q, keys, start, strides, sample_stride, HEAD_DIM, PADDED, BLOCK_N, False, PRECISION
            )
            chunk = start // BLOCK_N
            peak, norm = _block_sums(
                logits, peak, norm, factor, sums_at + chunk * BLOCK_M * BLOCKS,
                peaks_at + chunk * BLOCK_M, PER, BLOCK_M, BLOCK_N, False,
            )  # fmt: skip
        for start in range(interior, reach, BLOCK_N):
            logits = _chunk_logits(
                q, keys, start, strides, sample_stride, HEAD_DIM, PADDED, BLOCK_N, True, PRECISION
            )
            chunk = start // BLOCK_N
            peak, norm = _block_sums(
                logits, peak, norm, factor, sums_at + chunk * BLOCK_M * BLOCKS,
                peaks_at + chunk * BLOCK_M, PER, BLOCK_M, BLOCK_N, True,
            )  # fmt: skip
        # What some threads of this program wrote, others read.
        tl.debug_barrier()
        share = tl.where(real, 1.0 / norm, 0.0)
        row = tile * (BLOCK_M // PER) + tl.arange(0, BLOCK_M // PER)
        out = scores_ptr + (member.to(tl.int64) * rows + row.to(tl.int64)) * columns
        # What lies behind the chunks that the tile can see becomes 0.
        # Per chunk: weight [BLOCK_M], sums [BLOCK_M, BLOCKS], mass [query rows, PER samples, BLOCKS].
        for chunk in range(0, (columns + BLOCKS - 1) // BLOCKS):
            live = chunk * BLOCK_N < reach
            at = tl.arange(0, BLOCK_M)
            top = tl.load(peaks_at + chunk * BLOCK_M + at, mask=live, other=float("-inf"))
            weight = tl.exp2(top - peak) * share
            column = tl.arange(0, BLOCKS)
            sums_ptrs = sums_at + (chunk * BLOCK_M + at[:, None]) * BLOCKS + column[None, :]
            sums = tl.load(sums_ptrs, mask=live, other=0.0)
            mass = tl.reshape(sums * weight[:, None], (BLOCK_M // PER, PER, BLOCKS))
            column += chunk * BLOCKS
            inside = (row < rows)[:, None] & (column < columns)[None, :]
            score = tl.max(mass, 1) if MAXIMUM else tl.sum(mass, 1)
            tl.store(out[:, None] + column[None, :], score, mask=inside)
        tl.debug_barrier()


def block_scores_triton(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    stride: int,
    offset: str | int = "head",
    layer: int = 0,
    keys: str = "mean",
    over_samples: str = "sum",
    launch: Launch | None = None,
    hopper: bool | None = None,
) -> Tensor:
    """Estimated importance of every (query row, key block), on the GPU.

    Same arguments, errors and result as :func:`method.ops.rr_scores.torch.block_scores`, for bf16,
    fp16 and fp32 with head size 64, 96 or 128. Scores agree with the twin's within about 1 part in
    10^4; on Hopper within 5 for prompts whose block sums outgrow the cache, from about 40K tokens on.

    Args:
        query: ``[B, Hq, Lq, D]``.
        key: ``[B, Hkv, Lk, D]``.
        scale: factor on the logits.
        stride: ``S``.
        offset: which query of a stride is sampled.
        layer: index of the decoder layer.
        keys: "mean", "exact" or "largest", the latter two by :mod:`method.ops.rr_scores.exact`. For
            "spread" there is no kernel.
        over_samples: "sum" or "max".
        launch: settings of the portable kernel for mean keys instead of the chip's own; for tuning.
        hopper: whether the Hopper kernel runs; by default on capability 9.0 for 16-bit inputs.

    Returns:
        fp32 ``[B, Hq, rows, columns]``.
    """
    if keys != "mean":
        check_options(keys, over_samples)
        if keys not in WITH_KERNEL:
            raise ValueError(
                f"keys={keys!r} has no Triton kernel (supported: {', '.join(WITH_KERNEL)})"
            )
        return exact_scores_triton(
            query, key, scale=scale, stride=stride, offset=offset, layer=layer,
            largest=keys == "largest", over_samples=over_samples,
        )  # fmt: skip
    # Most samples are the same in all layers.
    layer = layer if offset in BY_LAYER else 0
    options = scale, stride, offset, layer, over_samples, launch, hopper
    at = stream_of(query.device) if query.is_cuda else 0
    fill, shape = kept(
        "mean_scores", (query, key), (*options, at), lambda: _prepare(query, key, *options)
    )
    query = unit_stride(query)
    scores = torch.empty(shape, dtype=torch.float32, device=query.device)
    fill(query, pool_keys_triton(key, stride), scores)
    return scores


def _prepare(
    query: Tensor,
    key: Tensor,
    scale: float,
    stride: int,
    offset: str | int,
    layer: int,
    over_samples: str,
    launch: Launch | None,
    hopper: bool | None,
) -> tuple[Fill, tuple[int, ...]]:
    """The estimate by mean keys for such queries and keys, and the shape of its scores."""
    check_qk(query, key)
    check_options("mean", over_samples)
    check_triton(query, "block_scores_triton")
    if hopper is None:
        sixteen = query.dtype != torch.float32
        hopper = capability(query.device) == 90 and sixteen and not launch
    (batch, heads, q_len, dim), k_len = query.shape, key.shape[2]
    pooled_shape = batch, key.shape[1], triton.cdiv(k_len, stride), dim
    starts = sample_starts(heads, stride, k_len - q_len, offset, query.device, layer)
    strides = unit_stride(query).stride()
    estimate = Estimate(
        tuple(query.shape), strides, pooled_shape, starts, k_len, stride, scale, query.dtype
    )
    maximum = over_samples == "max"
    if hopper:
        # Imported here so that other chips need no Gluon.
        from method.ops.rr_scores.hopper import fill_hopper

        return fill_hopper(estimate, maximum=maximum), estimate.scores_shape
    fill = _fill_portable(estimate, launch, maximum=maximum)
    return fill, estimate.scores_shape


def _fill_portable(estimate: Estimate, launch: Launch | None, *, maximum: bool) -> Fill:
    device, dim = estimate.device, estimate.query_shape[3]
    launch = launch or launch_for("estimate", capability(device), dim, estimate.dtype)
    sizes = estimate.sizes(SAMPLES)
    units = 2
    if device.type == "cuda":
        units = torch.cuda.get_device_properties(device).multi_processor_count
    programs = min(sizes[0] * sizes[-1], 2 * units)
    size, room = estimate.scratch(programs, SAMPLES, launch.block_n)
    ready = Ready(
        block_scores_kernel,
        (programs,),
        (*estimate.query_strides[:3], *sizes, room, estimate.factor),
        {
            "HEAD_DIM": dim, "PADDED": padded_head(dim), "STRIDE": estimate.stride,
            "PER": BLOCK // estimate.stride, "BLOCK_M": SAMPLES, "BLOCK_N": launch.block_n,
            "PRECISION": "ieee" if estimate.dtype == torch.float32 else "tf32", "MAXIMUM": maximum,
            "num_warps": launch.num_warps, "num_stages": launch.num_stages,
            "maxnreg": launch.max_registers,
        },
    )  # fmt: skip

    def fill(query: Tensor, pooled: Tensor, scores: Tensor) -> None:
        scratch = torch.empty(size, dtype=torch.float32, device=device)
        ready(query, pooled, estimate.starts, scratch, scores)

    return fill
