"""Block-sparse attention for Hopper, with a producer warp and two consumer warpgroups.

One tile is one query row (128 tokens) of one head. The producer walks the row's list of key blocks
and asks the copy engine for their keys and values, a ring of stages ahead. Each consumer owns 64
queries and overlaps the softmax of one block with the matrix products of its neighbours, as
FlashAttention-3 (arXiv 2407.08608) does. Lists are walked from their end, so that the diagonal
block comes first and the blocks after it need no token mask.

Written in Gluon, which has no interpreter: :mod:`method.ops.block_sparse.triton` is the same function
for every other chip, and :mod:`method.ops.block_sparse.reference` the truth for both.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
# Tuples of kernel arguments are unpacked whole, and a branch on a constant must stay a branch.
# ruff: noqa: RUF059
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)


@gluon.jit
def _place(tile, problem, lists):
    """Where a tile lies: head counted over the batch, query row, and pointers to list and length.

    Tiles run through ``together`` heads at a time, the longest rows first.
    """
    heads, group, rows, q_len, k_len, tiles, together = problem
    index_ptr, count_ptr, stride_ib, stride_ih, stride_ir, stride_cb, stride_ch, stride_cr = lists
    within = tile % (rows * together)
    row = rows - 1 - within // together
    member = (tile // (rows * together)) * together + within % together
    item = (member // heads).to(gl.int64)
    head = (member % heads).to(gl.int64)
    at = row.to(gl.int64)
    blocks = index_ptr + item * stride_ib + head * stride_ih + at * stride_ir
    length = count_ptr + item * stride_cb + head * stride_ch + at * stride_cr
    return member, row, blocks, length


@gluon.jit
def _list(row, blocks, length, problem, ROW: gl.constexpr):
    """Length and last block of a row's list; blocks above the diagonal are cut off."""
    heads, group, rows, q_len, k_len, tiles, together = problem
    count = gl.load(length)
    newest = (row * ROW + ROW - 1 + k_len - q_len) // ROW
    last = gl.load(blocks + (count - 1), mask=count > 0, other=-1)
    while last > newest:
        count -= 1
        last = gl.load(blocks + (count - 1), mask=count > 0, other=-1)
    return count, last


@gluon.jit
def _announce(turn, tile, count, last, slots, bars):
    """Producer: tell the consumers which tile comes next, and its list's length and last block."""
    slot = turn % 2
    mbarrier.wait(bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [1], [0])
    at = gl.arange(0, 4, layout=layout)
    slots.index(slot).store(gl.where(at == 0, tile, gl.where(at == 1, count, last)))
    mbarrier.arrive(bars.index(slot), count=1)


@gluon.jit
def _announced(turn, slots, bars):
    """Consumer: the tile that comes next (past the last one at the end), its length and last block."""
    slot = turn % 2
    mbarrier.wait(bars.index(slot), (turn // 2) & 1)
    # Every thread holds all four numbers, so that picking one costs no exchange.
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])
    numbers = slots.index(slot).load(layout)
    at = gl.arange(0, 4, layout=layout)
    tile = gl.sum(gl.where(at == 0, numbers, 0), 0)
    count = gl.sum(gl.where(at == 1, numbers, 0), 0)
    last = gl.sum(gl.where(at == 2, numbers, 0), 0)
    mbarrier.arrive(bars.index(2 + slot), count=1)
    return tile, count, last


@gluon.jit
def _producer(
    descs, problem, lists, buffers, bars, slots, tile_bars, counter_ptr,
    ROW: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy queries, keys and values of every tile into shared memory, as the consumers free it."""
    heads, group, rows, q_len, k_len, tiles, together = problem
    q_desc, k_desc, v_desc = descs
    q_bufs, k_bufs, v_bufs = buffers
    q_ready, q_free, k_ready, k_free, v_ready, v_free, turns = bars
    step = 0
    turn = 0
    tile = gl.atomic_add(counter_ptr, 1)
    while tile < tiles:
        member, row, blocks, length = _place(tile, problem, lists)
        count, block = _list(row, blocks, length, problem, ROW)
        # A row without blocks is given block 0, which the consumers mask out.
        block = gl.maximum(block, 0)
        _announce(turn, tile, count, block, slots, tile_bars)
        item = member // heads
        head = member % heads
        kv_head = head // group
        for half in gl.static_range(2):
            mbarrier.wait(q_free.index(half), (turn & 1) ^ 1)
            mbarrier.expect(q_ready.index(half), q_desc.block_type.nbytes)
            start = row * ROW + half * (ROW // 2)
            tma.async_copy_global_to_shared(
                q_desc, [item, head, start, 0], q_ready.index(half), q_bufs.index(half)
            )
        steps = gl.maximum(count, 1)
        for back in range(0, steps):
            stage = step % STAGES
            free = ((step // STAGES) & 1) ^ 1
            older = gl.load(blocks + (steps - 2 - back), mask=back + 1 < steps, other=0)
            mbarrier.wait(k_free.index(stage), free)
            mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [item, kv_head, block * ROW, 0], k_ready.index(stage), k_bufs.index(stage)
            )
            mbarrier.wait(v_free.index(stage), free)
            mbarrier.expect(v_ready.index(stage), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                v_desc, [item, kv_head, block * ROW, 0], v_ready.index(stage), v_bufs.index(stage)
            )
            block = older
            step += 1
        turn += 1
        tile = gl.atomic_add(counter_ptr, 1)
    _announce(turn, tile, 0, 0, slots, tile_bars)


@gluon.jit
def _softmax(
    logits, peak, norm, factor, query_at, key_at, k_len,
    MASKED: gl.constexpr,
):  # fmt: skip
    """Weights of one block, and the running maximum and sum with it; ``shrink`` is for the past."""
    if MASKED:
        seen = (key_at[None, :] <= query_at[:, None]) & (key_at < k_len)[None, :]
        logits = gl.where(seen, logits, float("-inf"))
    # logits and weights are [64 queries, ROW keys]; peak (m_i), norm (l_i) and shrink are [64].
    new_peak = gl.maximum(peak, gl.max(logits, 1) * factor)
    base = new_peak
    if MASKED:
        # A query that has seen no key yet: subtract 0, so that its weights are exp2(-inf) = 0.
        base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = gl.exp2(logits * factor - base[:, None])
    shrink = gl.exp2(peak - base)
    norm = norm * shrink + gl.sum(weights, 1)
    return weights, new_peak, norm, shrink


@gluon.jit
def _overlapped(
    q, acc, p, peak, norm, factor, query_at, key_at, k_len, step, buffers, bars,
    WHO: gl.constexpr, STAGES: gl.constexpr, ROW: gl.constexpr, DIM: gl.constexpr,
    S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr,
    MASKED: gl.constexpr, PINGPONG: gl.constexpr,
):  # fmt: skip
    """Logits of block ``step`` beside the values of block ``step - 1``; then the softmax."""
    # q is [64, DIM], k [DIM, ROW], v [ROW, DIM]; logits and p are [64, ROW], acc is [64, DIM].
    q_bufs, k_bufs, v_bufs = buffers
    q_ready, q_free, k_ready, k_free, v_ready, v_free, turns = bars
    stage = step % STAGES
    before = (step - 1) % STAGES
    k = k_bufs.index(stage).reshape([ROW, DIM]).permute((1, 0))
    v = v_bufs.index(before).reshape([ROW, DIM])
    zeros = gl.zeros([ROW // 2, ROW], gl.float32, S_LAYOUT)
    mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
    if PINGPONG:
        mbarrier.wait(turns.index(WHO), (step & 1) ^ (1 - WHO))
    logits = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    acc = warpgroup_mma(p, v, acc, is_async=True)
    if PINGPONG:
        mbarrier.arrive(turns.index(1 - WHO), count=1)
    logits = warpgroup_mma_wait(1, [logits])
    mbarrier.arrive(k_free.index(stage), count=1)
    weights, peak, norm, shrink = _softmax(logits, peak, norm, factor, query_at, key_at, k_len, MASKED)
    # Needed by the next product only. Waiting here, in a branch of its own, keeps the assembler from
    # moving the softmax behind the wait for the product that is to run beside it.
    mbarrier.wait(v_ready.index(stage), (step // STAGES) & 1)
    acc = warpgroup_mma_wait(0, [acc])
    mbarrier.arrive(v_free.index(before), count=1)
    acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, O_LAYOUT))[:, None]
    p = gl.convert_layout(weights.to(k.dtype), P_LAYOUT)
    return acc, p, peak, norm


@gluon.jit
def _consumer(
    out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
    problem, lists, buffers, bars, slots, tile_bars,
    WHO: gl.constexpr, ROW: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr, ALIGNED: gl.constexpr, WITH_LSE: gl.constexpr,
    PINGPONG: gl.constexpr,
):  # fmt: skip
    """Attention of 64 queries of every tile; ``WHO`` is 0 for the first half of the row, 1 else."""
    HALF: gl.constexpr = ROW // 2
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROW, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    heads, group, rows, q_len, k_len, tiles, together = problem
    q_bufs, k_bufs, v_bufs = buffers
    q_ready, q_free, k_ready, k_free, v_ready, v_free, turns = bars
    q = q_bufs.index(WHO).reshape([HALF, DIM])
    keys = gl.arange(0, ROW, layout=gl.SliceLayout(0, S_LAYOUT))
    queries = gl.arange(0, HALF, layout=gl.SliceLayout(1, S_LAYOUT))
    step = 0
    turn = 0
    tile, count, block = _announced(turn, slots, tile_bars)
    while tile < tiles:
        member, row, blocks, length = _place(tile, problem, lists)
        start = row * ROW + WHO * HALF
        query_at = start + queries + (k_len - q_len)
        # Nothing is inside if the list is empty: every weight is 0 then.
        inside = gl.where(count > 0, k_len, 0)
        end = step + gl.maximum(count, 1)
        peak = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, S_LAYOUT))
        norm = gl.full([HALF], 0.0, gl.float32, gl.SliceLayout(1, S_LAYOUT))

        stage = step % STAGES
        k = k_bufs.index(stage).reshape([ROW, DIM]).permute((1, 0))
        zeros = gl.zeros([HALF, ROW], gl.float32, S_LAYOUT)
        mbarrier.wait(q_ready.index(WHO), turn & 1)
        mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
        if PINGPONG:
            mbarrier.wait(turns.index(WHO), (step & 1) ^ (1 - WHO))
        logits = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
        if PINGPONG:
            mbarrier.arrive(turns.index(1 - WHO), count=1)
        logits = warpgroup_mma_wait(0, [logits])
        mbarrier.arrive(k_free.index(stage), count=1)
        weights, peak, norm, shrink = _softmax(
            logits, peak, norm, factor, query_at, block * ROW + keys, inside, True
        )
        p = gl.convert_layout(weights.to(k.dtype), P_LAYOUT)
        acc = gl.zeros([HALF, DIM], gl.float32, O_LAYOUT)
        mbarrier.wait(v_ready.index(stage), (step // STAGES) & 1)
        step += 1
        if not ALIGNED and step < end:
            # A row that straddles two key blocks has a second one with future keys.
            block = gl.load(blocks + (count - 2))
            acc, p, peak, norm = _overlapped(
                q, acc, p, peak, norm, factor, query_at, block * ROW + keys, k_len, step, buffers,
                bars, WHO, STAGES, ROW, DIM, S_LAYOUT, O_LAYOUT, P_LAYOUT, True, PINGPONG,
            )  # fmt: skip
            step += 1
        while step < end:
            acc, p, peak, norm = _overlapped(
                q, acc, p, peak, norm, factor, query_at, keys, k_len, step, buffers,
                bars, WHO, STAGES, ROW, DIM, S_LAYOUT, O_LAYOUT, P_LAYOUT, False, PINGPONG,
            )  # fmt: skip
            step += 1
        mbarrier.arrive(q_free.index(WHO), count=1)
        before = (step - 1) % STAGES
        v = v_bufs.index(before).reshape([ROW, DIM])
        acc = warpgroup_mma(p, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, [acc])
        mbarrier.arrive(v_free.index(before), count=1)

        # `norm` is 0 only for a query that has seen no key: it gets 0 as well.
        blind = norm == 0.0
        share = gl.where(blind, 0.0, 1.0 / norm)
        acc = acc * gl.convert_layout(share, gl.SliceLayout(1, O_LAYOUT))[:, None]
        item = (member // heads).to(gl.int64)
        head = (member % heads).to(gl.int64)
        tokens = start + gl.arange(0, HALF, layout=gl.SliceLayout(1, O_LAYOUT))
        dims = gl.arange(0, DIM, layout=gl.SliceLayout(0, O_LAYOUT))
        out = out_ptr + item * stride_ob + head * stride_oh
        out += tokens.to(gl.int64)[:, None] * stride_ol + dims[None, :]
        live = (tokens < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
        gl.store(out, acc.to(out_ptr.dtype.element_ty), mask=live)
        if WITH_LSE:
            # Back from base 2: multiply by ln 2.
            lse = (peak + gl.log2(gl.where(blind, 1.0, norm))) * 0.6931471805599453
            lse = gl.where(blind, float("-inf"), lse)
            at = start + queries
            lse_head = lse_ptr + member.to(gl.int64) * q_len
            gl.store(lse_head + at, lse, mask=at < q_len)
        turn += 1
        tile, count, block = _announced(turn, slots, tile_bars)


@gluon.jit
def sparse_gluon_kernel(
    q_desc, k_desc, v_desc, out_ptr, lse_ptr, index_ptr, count_ptr, counter_ptr,
    stride_ob, stride_oh, stride_ol, stride_ib, stride_ih, stride_ir,
    stride_cb, stride_ch, stride_cr,
    heads, group, rows, q_len, k_len, tiles, together, factor,
    HEAD_DIM: gl.constexpr, DIM: gl.constexpr, ROW: gl.constexpr, STAGES: gl.constexpr,
    ALIGNED: gl.constexpr, WITH_LSE: gl.constexpr, PINGPONG: gl.constexpr,
    CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr,
):  # fmt: skip
    """Any 1-D grid: programs fetch tiles as they get free.

    ``factor`` is ``scale * log2(e)``. ``ALIGNED``: ``k_len - q_len`` is a multiple of 128.
    """
    HALF: gl.constexpr = ROW // 2
    # Shared memory: both halves of the queries, and a ring of STAGES blocks of keys and of values.
    q_bufs = gl.allocate_shared_memory(q_desc.dtype, [2, 1, 1, HALF, DIM], q_desc.layout)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, 1, ROW, DIM], k_desc.layout)
    v_bufs = gl.allocate_shared_memory(v_desc.dtype, [STAGES, 1, 1, ROW, DIM], v_desc.layout)
    # Barriers: `ready` when a copy has landed, `free` when it has been read, `turns` between consumers.
    q_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    slots = gl.allocate_shared_memory(gl.int32, [2, 4], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for half in gl.static_range(2):
        mbarrier.init(q_ready.index(half), count=1)
        mbarrier.init(q_free.index(half), count=1)
        mbarrier.init(turns.index(half), count=1)
        mbarrier.init(tile_bars.index(half), count=1)
        mbarrier.init(tile_bars.index(2 + half), count=2)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)
    # The copy engine must see the barriers as they are now.
    fence_async_shared()
    problem = (heads, group, rows, q_len, k_len, tiles, together)
    lists = (index_ptr, count_ptr, stride_ib, stride_ih, stride_ir, stride_cb, stride_ch, stride_cr)
    buffers = (q_bufs, k_bufs, v_bufs)
    bars = (q_ready, q_free, k_ready, k_free, v_ready, v_free, turns)
    descs = (q_desc, k_desc, v_desc)
    gl.warp_specialize(
        [
            (_consumer, (
                out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
                problem, lists, buffers, bars, slots, tile_bars,
                0, ROW, DIM, HEAD_DIM, STAGES, ALIGNED, WITH_LSE, PINGPONG,
            )),
            (_consumer, (
                out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
                problem, lists, buffers, bars, slots, tile_bars,
                1, ROW, DIM, HEAD_DIM, STAGES, ALIGNED, WITH_LSE, PINGPONG,
            )),
            (_producer, (
                descs, problem, lists, buffers, bars, slots, tile_bars, counter_ptr,
                ROW, STAGES,
            )),
        ],
        [4, 1],
        [CONSUMER_REGS, PRODUCER_REGS],
    )  # fmt: skip
