"""RRAttention's block scores on Hopper, with one matrix product and no logits in memory.

One tile is 256 samples of one head. The producer warp streams the pooled keys it can see; each of
four consumer warpgroups owns 64 samples, so that one's softmax runs beside another's product. A
softmax needs the sum over a whole row before any of its parts can be compared with those of
another row, so the consumers leave every chunk's block sums in a scratch buffer of their program,
relative to the highest logit up to there, and weigh and reduce them once the row is through. Where
these would not fit into the cache they are kept in fp16: a score is then off by up to 1 part in 2000.

A prompt with no more tiles than multiprocessors takes as long as its longest tile. There a tile is
*folded*: its consumers' samples lie apart, so that every tile sees about as many keys.

Written in Gluon, which has no interpreter: :mod:`method.ops.rr_scores.triton` is the same function
for every other chip, and :mod:`method.ops.rr_scores.torch` explains the rule.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
# Tuples of kernel arguments are unpacked whole.
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# Renamed in Triton 3.7.
_sync = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


SUM_UNIT = gl.constexpr(1024.0)
"""What 1 is in fp16 block sums: 32 weights of at most 1 fit, and less than 2^-35 of one is lost."""


@gluon.jit
def _place(turn_tile, problem):
    """Head counted over the batch, and tile of samples; the longest tiles first."""
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    return turn_tile % members, tiles - 1 - turn_tile // members


@gluon.jit
def _chunks(samples, problem, STRIDE: gl.constexpr, KEYS: gl.constexpr):
    """Chunks of key strides that some token of a head's first ``samples`` strides can see."""
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    reach = (samples * STRIDE - 1 + shift) // STRIDE + 1
    return (gl.minimum(reach, strides) + KEYS - 1) // KEYS


@gluon.jit
def _own(tile, tiles, WHO: gl.constexpr, FOLDED: gl.constexpr):
    """Which 64 samples of its head a consumer takes.

    Folded: consumer 0 from the first quarter of the head's samples, forwards from tile to tile;
    consumer 1 from the second, backwards; and so on.
    """
    if not FOLDED:
        return tile * 4 + WHO
    elif WHO % 2 == 0:
        return WHO * tiles + tile
    else:
        return (WHO + 1) * tiles - 1 - tile


@gluon.jit
def _tile_chunks(tile, problem, STRIDE: gl.constexpr, KEYS: gl.constexpr, FOLDED: gl.constexpr):
    """Chunks of key strides that a tile's consumers can see; the last of them sees the most."""
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    return _chunks((_own(tile, tiles, 3, FOLDED) + 1) * 64, problem, STRIDE, KEYS)


@gluon.jit
def _producer(
    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
    STRIDE: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
    FOLDED: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """Copy the pooled keys of every tile into shared memory, as the consumers free it.

    A program's first tile has its own number, the others are drawn.
    """
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    k_ready, k_free = bars
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    step = 0
    turn = 0
    index = gl.program_id(0)
    if OVERLAP:
        gdc_wait()  # for the pooled keys
    while index < members * tiles:
        member, tile = _place(index, problem)
        kv = (member // heads) * (heads // group) + (member % heads) // group
        for chunk in range(0, _tile_chunks(tile, problem, STRIDE, KEYS, FOLDED)):
            stage = step % STAGES
            mbarrier.wait(k_free.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [kv, chunk * KEYS, 0], k_ready.index(stage), k_bufs.index(stage)
            )
            step += 1
        index = gl.num_programs(0) + gl.atomic_add(counter_ptr, 1)
        slot = turn % 2
        mbarrier.wait(tile_bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
        slots.index(slot).store(gl.full([1], index, gl.int32, layout))
        mbarrier.arrive(tile_bars.index(slot), count=1)
        turn += 1
    if index == members * tiles + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)  # the last program to end: the next launch starts from 0 again


@gluon.jit
def _next_tile(turn, slots, tile_bars):
    """Consumer: the tile that comes next; past the last one at the end."""
    slot = turn % 2
    mbarrier.wait(tile_bars.index(slot), (turn // 2) & 1)
    # Every thread holds the number, so that reading it costs no exchange.
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    index = gl.sum(slots.index(slot).load(layout), 0)
    mbarrier.arrive(tile_bars.index(2 + slot), count=1)
    return index


@gluon.constexpr_function
def _parts_layout(blocks):
    """Layout of ``[64, blocks, 4]``: a thread holds the four parts of neighbouring blocks' sums."""
    near = [[0, 1 << bit, 0] for bit in range(blocks.bit_length() - 3)]
    lanes = [[0, blocks // 4, 0], [0, blocks // 2, 0], [1, 0, 0], [2, 0, 0], [4, 0, 0]]
    return gl.DistributedLinearLayout(
        [[0, 0, 1], [0, 0, 2], *near, [8, 0, 0]], lanes, [[16, 0, 0], [32, 0, 0]], [], [64, blocks, 4]
    )


@gluon.jit
def _by_block(weights, KEYS: gl.constexpr, PER: gl.constexpr):
    """Sums ``[64, blocks]`` of weights over accumulator columns, neighbouring blocks in a thread."""
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    PARTS: gl.constexpr = _parts_layout(BLOCKS)
    if PER >= 8:
        # Four threads share a row. What each holds of a block is added up first, then they exchange
        # these parts, so that each adds up a quarter of the blocks.
        parts = gl.sum(weights.reshape([OWN, BLOCKS, PER // 8, 4, 2]), 4)
        return gl.sum(gl.convert_layout(gl.sum(parts, 2), PARTS), 2)
    else:
        sums = gl.sum(weights.reshape([OWN, BLOCKS, PER]), 2)
        return gl.convert_layout(sums, gl.SliceLayout(2, PARTS))


@gluon.jit
def _scratch_row(sample, PER: gl.constexpr):
    """Row of a sample's sums in scratch: the ``PER`` samples that are added up lie far apart, so that
    one thread reads them all and its neighbours what lies beside them.
    """
    return sample % PER * (64 // PER) + sample // PER


@gluon.jit
def _kept(sums, PACKED: gl.constexpr):
    """Block sums as scratch holds them."""
    return (sums * SUM_UNIT).to(gl.float16) if PACKED else sums


@gluon.jit
def _block_sums(
    logits, peak, norm, factor, last, sums_at, peaks_at,
    KEYS: gl.constexpr, PER: gl.constexpr, PACKED: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Sums by key block of a chunk's weights, left in scratch; the row's running peak and sums.

    ``last`` is the last column that a sample sees, counted within the chunk.
    """
    # logits are [64 samples, KEYS], sums [64, BLOCKS]; peak is [64], norm [64, 4 parts of the sum].
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    # Columns by eight: which eight is a matter of the register, so it costs no thread anything to know.
    cells = logits.reshape([OWN, KEYS // 8, 8])
    L: gl.constexpr = cells.type.layout
    if MASKED:
        inner = gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(1, L)))
        left = gl.convert_layout(last, gl.SliceLayout(1, gl.SliceLayout(1, L)))
        left = left[:, None] - inner[None, :]
        eight = gl.arange(0, KEYS // 8, layout=gl.SliceLayout(0, gl.SliceLayout(2, L))) * 8
        seen = gl.expand_dims(eight[None, :], 2) <= gl.expand_dims(left, 1)
        cells = gl.where(seen, cells, float("-inf"))
    # Columns eight apart first: a thread holds all of them, in two chains a row.
    top = gl.convert_layout(gl.max(gl.max(cells, 1), 1), peak.type.layout)
    new_peak = gl.maximum(peak, top * factor)
    base = new_peak
    if MASKED:
        base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    shift = gl.convert_layout(base, gl.SliceLayout(1, gl.SliceLayout(2, L)))
    weights = gl.exp2(cells * factor - gl.expand_dims(shift[:, None], 2))
    sums = _by_block(weights, KEYS, PER)
    N: gl.constexpr = norm.type.layout
    quarters = gl.convert_layout(gl.sum(sums.reshape([OWN, 4, BLOCKS // 4]), 2), N)
    decay = gl.convert_layout(gl.exp2(peak - base), gl.SliceLayout(1, N))
    norm = norm * decay[:, None] + quarters
    layout: gl.constexpr = sums.type.layout
    row = _scratch_row(gl.arange(0, OWN, layout=gl.SliceLayout(1, layout)), PER)
    column = gl.arange(0, BLOCKS, layout=gl.SliceLayout(0, layout))
    gl.store(sums_at + row[:, None] * BLOCKS + column[None, :], _kept(sums, PACKED))
    gl.store(peaks_at + gl.arange(0, OWN, layout=base.type.layout), base)
    return new_peak, norm


@gluon.jit
def _weigh(
    scores, sums_at, peaks_at, peak, share, first_row, chunks, rows, columns,
    KEYS: gl.constexpr, PER: gl.constexpr, SAMPLES: gl.constexpr, MAXIMUM: gl.constexpr,
):  # fmt: skip
    """Weigh a tile's block sums by their rows' softmax, reduce the samples of each query row.

    To their sum, or with ``MAXIMUM`` to the largest. What lies behind the tile's chunks is set to 0.
    """
    # sums are [CHUNKS, 64 samples, BLOCKS], weight is [CHUNKS, 64], mass [CHUNKS, query rows, BLOCKS].
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    # A thread holds samples of one query row, so that reducing them needs little exchange.
    TALL: gl.constexpr = min(PER, 16)
    BY_BLOCK: gl.constexpr = min(BLOCKS // 4, 8)
    BY_SAMPLE: gl.constexpr = min(OWN // TALL, 32 // BY_BLOCK)
    BY_CHUNK: gl.constexpr = 32 // (BY_BLOCK * BY_SAMPLE)
    CHUNKS: gl.constexpr = 4 * BY_CHUNK
    L: gl.constexpr = gl.BlockedLayout(
        [1, TALL, 4], [BY_CHUNK, BY_SAMPLE, BY_BLOCK], [4, 1, 1], [2, 1, 0]
    )
    PAIR: gl.constexpr = gl.SliceLayout(2, L)
    sample = gl.arange(0, OWN, layout=gl.SliceLayout(0, PAIR))
    chunk = gl.arange(0, CHUNKS, layout=gl.SliceLayout(1, PAIR))
    block = gl.arange(0, BLOCKS, layout=gl.SliceLayout(0, gl.SliceLayout(0, L)))
    # The slices of a 3-D layout: [chunk, sample], then the block.
    peak = gl.convert_layout(peak, gl.SliceLayout(0, PAIR))
    share = gl.convert_layout(share, gl.SliceLayout(0, PAIR))
    for first in range(0, (columns + BLOCKS - 1) // BLOCKS, CHUNKS):
        live = first + chunk < chunks
        at = (first + chunk)[:, None] * SAMPLES
        top = gl.load(peaks_at + at + sample[None, :], mask=live[:, None], other=float("-inf"))
        weight = gl.exp2(top - peak[None, :]) * share[None, :]
        at = at + _scratch_row(sample, PER)[None, :]
        at3 = gl.expand_dims(at, 2) * BLOCKS + gl.expand_dims(gl.expand_dims(block, 0), 0)
        live3 = gl.expand_dims(live[:, None], 2)
        sums = gl.load(sums_at + at3, mask=live3, other=0.0).to(gl.float32)
        mass = (sums * gl.expand_dims(weight, 2)).reshape([CHUNKS, OWN // PER, PER, BLOCKS])
        mass = gl.max(mass, 2) if MAXIMUM else gl.sum(mass, 2)
        M: gl.constexpr = mass.type.layout
        row = first_row + gl.arange(0, OWN // PER, layout=gl.SliceLayout(0, gl.SliceLayout(2, M)))
        which = first + gl.arange(0, CHUNKS, layout=gl.SliceLayout(1, gl.SliceLayout(2, M)))
        inner = gl.arange(0, BLOCKS, layout=gl.SliceLayout(0, gl.SliceLayout(0, M)))
        column = gl.expand_dims(which[:, None] * BLOCKS, 2) + gl.expand_dims(
            gl.expand_dims(inner, 0), 0
        )
        row = gl.expand_dims(row[None, :], 2)
        inside = (row < rows) & (column < columns)
        gl.store(scores + row.to(gl.int64) * columns + column, mass, mask=inside)


@gluon.jit
def _logits(
    q, step, k_bufs, bars, KEYS: gl.constexpr, DIM: gl.constexpr, STAGES: gl.constexpr,
    S: gl.constexpr,
):  # fmt: skip
    """Products of 64 samples with the chunk of keys that comes ``step``-th."""
    # q is [64, DIM], k [DIM, KEYS]; the logits are [64, KEYS].
    k_ready, k_free = bars
    stage = step % STAGES
    mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
    k = k_bufs.index(stage).reshape([KEYS, DIM]).permute((1, 0))
    zeros = gl.zeros([64, KEYS], gl.float32, S)
    logits = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    logits = warpgroup_mma_wait(0, [logits])
    mbarrier.arrive(k_free.index(stage), count=1)
    return logits


@gluon.jit
def _consumer(
    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
    WHO: gl.constexpr, SAMPLES: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    KEYS: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    MAXIMUM: gl.constexpr, PACKED: gl.constexpr, FOLDED: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """Block scores of 64 samples of every tile; ``WHO`` is 0 to 3."""
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    WIDE: gl.constexpr = DIM // 8
    QL: gl.constexpr = gl.BlockedLayout([1, 8], [32 // WIDE, WIDE], [4, 1], [1, 0])
    q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor = inputs
    scores_ptr, scratch_ptr, chunk_room = outputs
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    k_ready, k_free = bars
    q = q_bufs.index(WHO)
    FLOATS: gl.constexpr = BLOCKS // 2 if PACKED else BLOCKS
    scratch = scratch_ptr + gl.program_id(0).to(gl.int64) * chunk_room * SAMPLES * (FLOATS + 1)
    peaks_at = scratch + chunk_room * (SAMPLES * FLOATS) + WHO * OWN
    if PACKED:
        sums_at = scratch.to(gl.pointer_type(gl.float16), bitcast=True) + WHO * OWN * BLOCKS
    else:
        sums_at = scratch + WHO * OWN * BLOCKS
    step = 0
    turn = 0
    index = gl.program_id(0)
    while index < members * tiles:
        member, tile = _place(index, problem)
        item = (member // heads).to(gl.int64)
        head = (member % heads).to(gl.int64)
        start = gl.load(starts_ptr + head).to(gl.int32)
        first = _own(tile, tiles, WHO, FOLDED) * OWN
        token = (first + gl.arange(0, OWN, layout=gl.SliceLayout(1, QL))) * STRIDE + start
        dims = gl.arange(0, DIM, layout=gl.SliceLayout(0, QL))
        there = (token < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
        at = q_ptr + item * stride_qb + head * stride_qh
        at += token.to(gl.int64)[:, None] * stride_ql + dims[None, :]
        q.store(gl.load(at, mask=there, other=0.0))
        fence_async_shared()
        _sync()
        if OVERLAP:
            gdc_wait()  # before the first write; the queries are older than the kernel waited for
        token = (first + gl.arange(0, OWN, layout=gl.SliceLayout(1, S))) * STRIDE + start
        last = gl.minimum((token + shift) // STRIDE, strides - 1)
        chunks = _chunks(first + OWN, problem, STRIDE, KEYS)
        # Chunks before this one are visible to every sample; one with a mask always remains.
        interior = gl.minimum((first * STRIDE + start + shift) // STRIDE + 1, strides) // KEYS
        interior = gl.minimum(interior, chunks - 1)
        peak = gl.full([OWN], float("-inf"), gl.float32, gl.SliceLayout(1, S))
        norm = gl.full([OWN, 4], 0.0, gl.float32, gl.SliceLayout(2, _parts_layout(4)))

        for chunk in range(0, interior):
            logits = _logits(q, step, k_bufs, bars, KEYS, DIM, STAGES, S)
            peak, norm = _block_sums(
                logits, peak, norm, factor, last,
                sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES,
                KEYS, PER, PACKED, False,
            )  # fmt: skip
            step += 1
        for chunk in range(interior, chunks):
            logits = _logits(q, step, k_bufs, bars, KEYS, DIM, STAGES, S)
            peak, norm = _block_sums(
                logits, peak, norm, factor, last - chunk * KEYS,
                sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES,
                KEYS, PER, PACKED, True,
            )  # fmt: skip
            step += 1
        # What this warpgroup wrote, other threads of it read.
        _sync()
        total = gl.convert_layout(gl.sum(norm, 1), peak.type.layout)
        share = gl.where(token < q_len, 1.0 / (SUM_UNIT * total if PACKED else total), 0.0)
        _weigh(
            scores_ptr + member.to(gl.int64) * rows * columns, sums_at, peaks_at, peak, share,
            first // PER, chunks, rows, columns, KEYS, PER, SAMPLES, MAXIMUM,
        )  # fmt: skip
        # Others of the tile may see more than this warpgroup.
        for _chunk in range(chunks, _tile_chunks(tile, problem, STRIDE, KEYS, FOLDED)):
            mbarrier.wait(k_ready.index(step % STAGES), (step // STAGES) & 1)
            mbarrier.arrive(k_free.index(step % STAGES), count=1)
            step += 1
        _sync()
        index = _next_tile(turn, slots, tile_bars)
        turn += 1


@gluon.jit
def block_scores_gluon_kernel(
    q_ptr, k_desc, scores_ptr, scratch_ptr, starts_ptr, counter_ptr,
    stride_qb, stride_qh, stride_ql,
    members, heads, group, q_len, shift, strides, rows, columns, tiles, chunk_room, factor,
    HEAD_DIM: gl.constexpr, DIM: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    SAMPLES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr, MAXIMUM: gl.constexpr,
    PACKED: gl.constexpr, FOLDED: gl.constexpr, OVERLAP: gl.constexpr,
    CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr,
):  # fmt: skip
    """Any 1-D grid of at most one program a tile: programs fetch tiles as they get free.

    ``factor`` is ``scale * log2(e)``; ``chunk_room`` chunks fit into a program's scratch. With
    ``MAXIMUM`` a block's score is its largest mass of any sample, else their sum. With ``PACKED``
    scratch holds block sums in fp16, two to a float. With ``OVERLAP`` programs may start while the
    kernel that pools the keys still runs, before which queries and starts must be there.
    """
    if OVERLAP:
        gdc_launch_dependents()
    # Shared memory: 64 samples of each consumer, and a ring of STAGES chunks of KEYS pooled keys.
    Q_LAYOUT: gl.constexpr = gl.NVMMASharedLayout(min(128, 2 * DIM), 16, 2)
    q_bufs = gl.allocate_shared_memory(k_desc.dtype, [4, SAMPLES // 4, DIM], Q_LAYOUT)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, KEYS, DIM], k_desc.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    slots = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for half in gl.static_range(2):
        mbarrier.init(tile_bars.index(half), count=1)
        mbarrier.init(tile_bars.index(2 + half), count=4)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=4)
    # The copy engine must see the barriers as they are now.
    fence_async_shared()
    problem = (members, heads, group, q_len, shift, strides, rows, columns, tiles)
    bars = (k_ready, k_free)
    inputs = (q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor)
    outputs = (scores_ptr, scratch_ptr, chunk_room)
    gl.warp_specialize(
        [
            (_consumer, (
                inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                0, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, PACKED,
                FOLDED, OVERLAP,
            )),
            (_consumer, (
                inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                1, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, PACKED,
                FOLDED, OVERLAP,
            )),
            (_consumer, (
                inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                2, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, PACKED,
                FOLDED, OVERLAP,
            )),
            (_consumer, (
                inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                3, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, PACKED,
                FOLDED, OVERLAP,
            )),
            (_producer, (
                k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
                STRIDE, KEYS, STAGES, FOLDED, OVERLAP,
            )),
        ],
        [4, 4, 4, 1],
        [CONSUMER_REGS, CONSUMER_REGS, CONSUMER_REGS, PRODUCER_REGS],
    )  # fmt: skip
