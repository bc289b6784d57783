"""Block-sparse attention for Hopper, with a producer warp and two consumer warpgroups.

One tile is one query row (128 tokens) of one head. The producer walks the row's list of key blocks
and asks the copy engine for their keys and values, a ring of stages ahead. Each consumer owns 64
queries and overlaps the softmax of one block with the matrix products of its neighbours, as
FlashAttention-3 (arXiv 2407.08608) does; a row's last product runs beside the next row's first, so
short lists cost no more per block than long ones. Lists are walked from their end, so that the
diagonal block comes first and the blocks after it need no token mask.

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
from triton.language.extra.cuda import gdc_wait

from method.ops.block_sparse.hopper_softmax import exponentials, maxima, no_maxima, rescaled


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
    q_ready, q_free, k_ready, k_free, v_ready, v_free = bars
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
            at = (turn % 2) * 2 + half
            mbarrier.wait(q_free.index(at), ((turn // 2) & 1) ^ 1)
            mbarrier.expect(q_ready.index(at), q_desc.block_type.nbytes)
            start = row * ROW + half * (ROW // 2)
            tma.async_copy_global_to_shared(
                q_desc, [item, head, start, 0], q_ready.index(at), q_bufs.index(at)
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
    if tile == tiles + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)  # the last program to end: the next launch starts from 0 again
    _announce(turn, tile, 0, 0, slots, tile_bars)


@gluon.constexpr_function
def _barrier(instruction: str, number: int) -> str:
    """Assembly on a named barrier of both consumers; Triton itself uses those of low numbers."""
    return f"bar.{instruction} {8 + number}, 256; mov.b32 $0, $1;"


@gluon.jit
def _turn_begins(step, WHO: gl.constexpr):
    """Wait until the other consumer has handed over the tensor cores."""
    gl.inline_asm_elementwise(_barrier("sync", WHO), "=r,r", [step], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _turn_ends(step, WHO: gl.constexpr):
    """Hand the tensor cores to the other consumer, without waiting for it."""
    gl.inline_asm_elementwise(
        _barrier("arrive", 1 - WHO), "=r,r", [step], gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _step(
    q, acc, p, peak, norm, factor, query_at, key_at, k_len, step, buffers, bars,
    WHO: gl.constexpr, STAGES: gl.constexpr, ROW: gl.constexpr, DIM: gl.constexpr,
    S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr, P_LAYOUT: gl.constexpr,
    MASKED: gl.constexpr, FIRST: gl.constexpr,
):  # fmt: skip
    """Logits of block ``step`` beside the values of block ``step - 1``; then the softmax.

    ``FIRST``: block ``step`` begins a tile, so ``acc`` is complete for the tile before and is returned
    as it is. Before the very first block there are no values: that product is thrown away.
    """
    # q is [64, DIM], k [DIM, ROW], v [ROW, DIM]; logits and p are [64, ROW], acc is [64, DIM].
    q_bufs, k_bufs, v_bufs = buffers
    q_ready, q_free, k_ready, k_free, v_ready, v_free = bars
    stage = step % STAGES
    before = (step + STAGES - 1) % STAGES
    k = k_bufs.index(stage).reshape([ROW, DIM]).permute((1, 0))
    v = v_bufs.index(before).reshape([ROW, DIM])
    zeros = gl.zeros([ROW // 2, ROW], gl.float32, S_LAYOUT)
    mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
    _turn_begins(step, WHO)
    logits = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    # In a branch of its own between the two products; at the end of the step it would keep the
    # assembler from packing the weights while the exponentials are computed.
    mbarrier.wait(v_ready.index(before), ((step - 1) // STAGES) & 1, pred=step > 0)
    acc = warpgroup_mma(p, v, acc, is_async=True)
    _turn_ends(step, WHO)
    logits = warpgroup_mma_wait(1, [logits])
    mbarrier.arrive(k_free.index(stage), count=1)
    if FIRST:
        peak = gl.full(peak.shape, float("-inf"), gl.float32, peak.type.layout)
    cells, peak, base, shrink = maxima(logits, peak, factor, query_at, key_at, k_len, MASKED)
    # The values' product has had the time of the maxima; the exponentials hide what follows it.
    acc = warpgroup_mma_wait(0, [acc])
    mbarrier.arrive(v_free.index(before), count=1, pred=step > 0)
    if not FIRST:
        acc = rescaled(acc, shrink, DIM)
    weights, parts = exponentials(cells, base, factor)
    norm = parts if FIRST else norm * shrink + parts
    weights = gl.convert_layout(weights.reshape([ROW // 2, ROW]), S_LAYOUT, assert_trivial=True)
    p = gl.convert_layout(weights.to(k.dtype), P_LAYOUT)
    return acc, p, peak, norm


@gluon.jit
def _write(
    acc, peak, norm, member, start, out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, heads, q_len,
    HALF: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr, O_LAYOUT: gl.constexpr,
    WITH_LSE: gl.constexpr,
):  # fmt: skip
    """Normalise and store 64 rows of the output, and their log-sum-exp if asked for."""
    norm = gl.sum(norm, 1)
    # `norm` is 0 only for a query that has seen no key: it gets 0 as well.
    blind = norm == 0.0
    share = gl.where(blind, 0.0, 1.0 / norm)
    acc = acc * gl.convert_layout(share, gl.SliceLayout(1, O_LAYOUT))[:, None]
    # A thread holds pairs of a row's neighbours; exchanged, 16 bytes a thread make whole lines.
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [256 // DIM, DIM // 8], [4, 1], [1, 0])
    result = gl.convert_layout(acc.to(out_ptr.dtype.element_ty), WIDE)
    tokens = start + gl.arange(0, HALF, layout=gl.SliceLayout(1, WIDE))
    dims = gl.arange(0, DIM, layout=gl.SliceLayout(0, WIDE))
    item = (member // heads).to(gl.int64)
    head = (member % heads).to(gl.int64)
    out = out_ptr + item * stride_ob + head * stride_oh
    out += tokens.to(gl.int64)[:, None] * stride_ol + dims[None, :]
    gl.store(out, result, mask=(tokens < q_len)[:, None] & (dims < HEAD_DIM)[None, :])
    if WITH_LSE:
        # Back from base 2: multiply by ln 2.
        lse = (gl.max(peak, 1) + gl.log2(gl.where(blind, 1.0, norm))) * 0.6931471805599453
        lse = gl.where(blind, float("-inf"), lse)
        at = start + gl.arange(0, HALF, layout=lse.type.layout)
        lse_head = lse_ptr + member.to(gl.int64) * q_len
        gl.store(lse_head + at, lse, mask=at < q_len)


@gluon.jit
def _consumer(
    out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
    problem, lists, buffers, bars, slots, tile_bars,
    WHO: gl.constexpr, ROW: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr, ALIGNED: gl.constexpr, WITH_LSE: gl.constexpr,
):  # fmt: skip
    """Attention of 64 queries of every tile; ``WHO`` is 0 for the first half of the row, 1 else.

    A tile's last product runs beside the next tile's first one, as any two blocks' do.
    """
    HALF: gl.constexpr = ROW // 2
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROW, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(0, O_LAYOUT, 2)
    heads, group, rows, q_len, k_len, tiles, together = problem
    q_bufs, k_bufs, v_bufs = buffers
    q_ready, q_free, k_ready, k_free, v_ready, v_free = bars
    keys = gl.arange(0, ROW, layout=gl.SliceLayout(0, S_LAYOUT))
    queries = gl.arange(0, HALF, layout=gl.SliceLayout(1, S_LAYOUT))
    step = 0
    turn = 0
    done_member = 0
    done_start = 0
    acc = gl.zeros([HALF, DIM], gl.float32, O_LAYOUT)
    p = gl.zeros([HALF, ROW], k_bufs.dtype, P_LAYOUT)
    peak = no_maxima(gl.zeros([HALF, ROW], gl.float32, S_LAYOUT))
    norm = peak
    if WHO == 1:
        _turn_ends(step, 1)
    tile, count, block = _announced(turn, slots, tile_bars)
    while tile < tiles:
        member, row, blocks, length = _place(tile, problem, lists)
        start = row * ROW + WHO * HALF
        query_at = start + queries + (k_len - q_len)
        # Nothing is inside if the list is empty: every weight is 0 then.
        inside = gl.where(count > 0, k_len, 0)
        end = step + gl.maximum(count, 1)
        at = (turn % 2) * 2 + WHO
        q = q_bufs.index(at).reshape([HALF, DIM])
        mbarrier.wait(q_ready.index(at), (turn // 2) & 1)
        done_peak = peak
        done_norm = norm
        acc, p, peak, norm = _step(
            q, acc, p, peak, norm, factor, query_at, block * ROW + keys, inside, step, buffers,
            bars, WHO, STAGES, ROW, DIM, S_LAYOUT, O_LAYOUT, P_LAYOUT, True, True,
        )  # fmt: skip
        if turn > 0:
            _write(
                acc, done_peak, done_norm, done_member, done_start, out_ptr, lse_ptr,
                stride_ob, stride_oh, stride_ol, heads, q_len,
                HALF, DIM, HEAD_DIM, O_LAYOUT, WITH_LSE,
            )  # fmt: skip
        acc = gl.zeros([HALF, DIM], gl.float32, O_LAYOUT)
        step += 1
        if not ALIGNED and step < end:
            # A row that straddles two key blocks has a second one with future keys.
            block = gl.load(blocks + (count - 2))
            acc, p, peak, norm = _step(
                q, acc, p, peak, norm, factor, query_at, block * ROW + keys, k_len, step, buffers,
                bars, WHO, STAGES, ROW, DIM, S_LAYOUT, O_LAYOUT, P_LAYOUT, True, False,
            )  # fmt: skip
            step += 1
        while step < end:
            acc, p, peak, norm = _step(
                q, acc, p, peak, norm, factor, query_at, keys, k_len, step, buffers,
                bars, WHO, STAGES, ROW, DIM, S_LAYOUT, O_LAYOUT, P_LAYOUT, False, False,
            )  # fmt: skip
            step += 1
        mbarrier.arrive(q_free.index(at), count=1)
        done_member = member
        done_start = start
        turn += 1
        tile, count, block = _announced(turn, slots, tile_bars)
    if turn > 0:
        before = (step + STAGES - 1) % STAGES
        v = v_bufs.index(before).reshape([ROW, DIM])
        mbarrier.wait(v_ready.index(before), ((step - 1) // STAGES) & 1)
        acc = warpgroup_mma(p, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, [acc])
        _write(
            acc, peak, norm, done_member, done_start, out_ptr, lse_ptr,
            stride_ob, stride_oh, stride_ol, heads, q_len,
            HALF, DIM, HEAD_DIM, O_LAYOUT, WITH_LSE,
        )  # fmt: skip


@gluon.jit
def sparse_gluon_kernel(
    q_desc, k_desc, v_desc, out_ptr, lse_ptr, index_ptr, count_ptr, counter_ptr,
    stride_ob, stride_oh, stride_ol, stride_ib, stride_ih, stride_ir,
    stride_cb, stride_ch, stride_cr,
    heads, group, rows, q_len, k_len, tiles, together, factor,
    HEAD_DIM: gl.constexpr, DIM: gl.constexpr, ROW: gl.constexpr, STAGES: gl.constexpr,
    ALIGNED: gl.constexpr, WITH_LSE: gl.constexpr,
    OVERLAP: gl.constexpr, CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr,
):  # fmt: skip
    """Any 1-D grid: programs fetch tiles as they get free.

    ``factor`` is ``scale * log2(e)``. ``ALIGNED``: ``k_len - q_len`` is a multiple of 128.
    """
    HALF: gl.constexpr = ROW // 2
    # Shared memory: both halves of the queries, twice, and rings of STAGES blocks of keys and values.
    q_bufs = gl.allocate_shared_memory(q_desc.dtype, [4, 1, 1, HALF, DIM], q_desc.layout)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, 1, ROW, DIM], k_desc.layout)
    v_bufs = gl.allocate_shared_memory(v_desc.dtype, [STAGES, 1, 1, ROW, DIM], v_desc.layout)
    # Barriers: `ready` when a copy has landed, `free` when it has been read.
    q_ready = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    slots = gl.allocate_shared_memory(gl.int32, [2, 4], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for half in gl.static_range(2):
        for slot in gl.static_range(2):
            mbarrier.init(q_ready.index(2 * slot + half), count=1)
            mbarrier.init(q_free.index(2 * slot + half), count=1)
        mbarrier.init(tile_bars.index(half), count=1)
        mbarrier.init(tile_bars.index(2 + half), count=2)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_ready.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)
    # The copy engine must see the barriers as they are now.
    fence_async_shared()
    if OVERLAP:
        gdc_wait()
    problem = (heads, group, rows, q_len, k_len, tiles, together)
    lists = (index_ptr, count_ptr, stride_ib, stride_ih, stride_ir, stride_cb, stride_ch, stride_cr)
    buffers = (q_bufs, k_bufs, v_bufs)
    bars = (q_ready, q_free, k_ready, k_free, v_ready, v_free)
    descs = (q_desc, k_desc, v_desc)
    gl.warp_specialize(
        [
            (_consumer, (
                out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
                problem, lists, buffers, bars, slots, tile_bars,
                0, ROW, DIM, HEAD_DIM, STAGES, ALIGNED, WITH_LSE,
            )),
            (_consumer, (
                out_ptr, lse_ptr, stride_ob, stride_oh, stride_ol, factor,
                problem, lists, buffers, bars, slots, tile_bars,
                1, ROW, DIM, HEAD_DIM, STAGES, ALIGNED, WITH_LSE,
            )),
            (_producer, (
                descs, problem, lists, buffers, bars, slots, tile_bars, counter_ptr,
                ROW, STAGES,
            )),
        ],
        [4, 1],
        [CONSUMER_REGS, PRODUCER_REGS],
    )  # fmt: skip
