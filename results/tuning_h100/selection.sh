#!/bin/bash
# RRAttention's selection of short prompts: overlapping launches, folded tiles, mean keys; and the estimate's
# second kernel at 128K. < 200 s on an H100. From the root of a full checkout of the branch; main at $CODE_MAIN
# (/tmp/code_main). This one file is enough. Output: $OUT/short_*.txt
export OUT=${OUT:-.}; PY=${PY:-python}; export PYTHONPATH=$PWD:$PYTHONPATH OMP_NUM_THREADS=2
export D=$(mktemp -d) PY
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$D/cache}
date
cat > $D/variants.py <<'EOF_PART'
"""variants.py DIR: packages m_<name>, copies of `method` (main's from /tmp/code_main) with a few lines changed."""
import os, re, shutil, sys
D = sys.argv[1]
HERE = os.path.dirname(os.path.abspath(__file__))
MAIN = os.environ.get("CODE_MAIN", "/tmp/code_main")
H, K = "ops/rr_scores/hopper_kernel.py", "ops/rr_scores/hopper.py"
TRACE_STAMP = '''
@gluon.jit
def _stamp(trace, WHICH: gl.constexpr, WHO: gl.constexpr, GLOBAL: gl.constexpr):
    asm: gl.constexpr = "mov.u32 $0, %globaltimer_lo;" if GLOBAL else "mov.u32 $0, %clock;"
    now = gl.inline_asm_elementwise(asm + " // $1", "=r,r", [gl.program_id(0)], gl.int32, is_pure=False, pack=1)
    gl.store(trace + (gl.program_id(0) * 4 + WHO) * 8 + WHICH, now)


@gluon.jit
def _consumer('''
CHANGES = {
    "new": [],
    "nopdl": [("ops/triton_support.py", "return capability(device) >= 90 and not interpreting()", "return False")],
    "nofold": [(K, '"FOLDED": tiles == programs', '"FOLDED": False')],
    "loop": [("ops/rr_scores/key_sums.py", None, open(HERE + "/key_sums_loop.py").read())],
    "tile16": [("ops/rr_scores/key_sums.py", "POOL_STRIDES = 8", "POOL_STRIDES = 16")],
    "lateq": [(H, "        q.store(gl.load(at, mask=there, other=0.0))\n", "        if OVERLAP:\n            gdc_wait()\n        q.store(gl.load(at, mask=there, other=0.0))\n")],
    "latetrigger": [(H, "    if OVERLAP:\n        gdc_launch_dependents()\n", ""),
                    (H, "        # What this warpgroup wrote, other threads of it read.\n", "        if OVERLAP:\n            gdc_launch_dependents()\n")],
    "masked": [(H, "        interior = gl.minimum(interior, chunks - 1)\n", "        interior = gl.minimum(interior, chunks - 1)\n        if FOLDED:\n            interior = gl.minimum(interior, 0)\n")],
    "ranked": [("ops/top_p/triton.py", None, open(HERE + "/top_ranked.py").read())],
    "lanes32": [("ops/top_p/triton.py", "LANE_SCORES = 16", "LANE_SCORES = 32")],
    "attention": [("ops/block_sparse/hopper.py", '"OVERLAP": overlap, "launch_pdl": overlap,', '"OVERLAP": False, "launch_pdl": False,')],
    "trace": [
        (H, "\n@gluon.jit\ndef _consumer(", TRACE_STAMP),
        (H, "    step = 0\n    turn = 0\n    index = gl.program_id(0)\n    while index < members * tiles:\n        member, tile = _place(index, problem)\n        item",
            "    trace = (scratch_ptr + gl.num_programs(0).to(gl.int64) * chunk_room * SAMPLES * (FLOATS + 1)).to(gl.pointer_type(gl.int32), bitcast=True)\n"
            "    _stamp(trace, 0, WHO, True)\n    _stamp(trace, 1, WHO, False)\n"
            "    step = 0\n    turn = 0\n    index = gl.program_id(0)\n    while index < members * tiles:\n        member, tile = _place(index, problem)\n        item"),
        (H, "            gdc_wait()  # before the first write; the queries are older than the kernel waited for\n",
            "            _stamp(trace, 2, WHO, False)\n            gdc_wait()\n            _stamp(trace, 3, WHO, False)\n"),
        (H, "        # What this warpgroup wrote, other threads of it read.\n", "        _stamp(trace, 4, WHO, False)\n"),
        (H, "        # Others of the tile may see more than this warpgroup.\n", "        _stamp(trace, 5, WHO, False)\n"),
        (H, "        index = _next_tile(turn, slots, tile_bars)\n        turn += 1\n", "        index = _next_tile(turn, slots, tile_bars)\n        turn += 1\n        _stamp(trace, 6, WHO, False)\n        _stamp(trace, 7, WHO, True)\n"),
        (K, "torch.empty(size, dtype=torch.float32, device=device)\n", "torch.empty(size + 132 * 32, dtype=torch.float32, device=device)\n        LAST.append(scratch[size:].view(torch.int32))\n"),
        (K, "SAMPLES = 256\n", "SAMPLES = 256\nLAST = []\n"),
    ],
}
CHANGES["rankmask"] = CHANGES["ranked"] + CHANGES["masked"]
def make(name, source, changes):
    target = f"{D}/m_{name}"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path, old, new in changes:
        text = open(f"{target}/{path}").read()
        if old is None:
            text = new
        else:
            assert text.count(old) == 1, (name, path, text.count(old), old)
            text = text.replace(old, new)
        open(f"{target}/{path}", "w").write(text)
    for folder, _, files in os.walk(target):
        for one in files:
            if one.endswith(".py"):
                text = open(f"{folder}/{one}").read()
                text = re.sub(r"^(\s*)(from|import) method\b", rf"\1\2 m_{name}", text, flags=re.M)
                open(f"{folder}/{one}", "w").write(text)
names = []
if os.path.isdir(MAIN + "/method"):
    make("main", MAIN + "/method", [])
    names.append("main")
for name, changes in CHANGES.items():
    make(name, "method", changes)
    names.append(name)
open(f"{D}/names", "w").write("\n".join(names) + "\n")
EOF_PART
cat > $D/key_sums_loop.py <<'EOF_PART'
"""Mean keys of strides in Triton; the twin is :func:`method.ops.rr_scores.torch.pool_keys`."""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from method.ops.launch import Ready, kept
from method.ops.triton_support import check_triton, overlaps, padded_head, unit_stride

POOL_STRIDES = 16


@triton.jit
def pool_keys_kernel(
    k_ptr, out_ptr, stride_kb, stride_kh, stride_kl, kv_heads, k_len, strides,
    HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, STRIDE: tl.constexpr, TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid ``(B * Hkv, ceil(strides / TILE))``: mean key of ``TILE`` strides.

    Launched when all ahead of it has ended, which the estimate behind it relies on.
    """
    if OVERLAP:
        gdc_launch_dependents()
    item = (tl.program_id(0) // kv_heads).to(tl.int64)
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    # Strides [TILE]; total and mean are [TILE, PADDED].
    index = tl.program_id(1) * TILE + tl.arange(0, TILE)
    dims = tl.arange(0, PADDED)
    wide = (dims < HEAD_DIM)[None, :]
    base = k_ptr + item * stride_kb + head * stride_kh + dims[None, :]
    total = tl.zeros([TILE, PADDED], tl.float32)
    # Unrolled, so that several tokens are asked for before the first is there.
    TOGETHER: tl.constexpr = min(STRIDE, 8)
    for token in tl.range(0, STRIDE, loop_unroll_factor=TOGETHER):
        at = index * STRIDE + token
        ptrs = base + at.to(tl.int64)[:, None] * stride_kl
        total += tl.load(ptrs, mask=(at < k_len)[:, None] & wide, other=0.0).to(tl.float32)
    out = out_ptr + (item * kv_heads + head) * strides * HEAD_DIM
    ptrs = out + index.to(tl.int64)[:, None] * HEAD_DIM + dims[None, :]
    mean = (total * (1.0 / STRIDE)).to(out_ptr.dtype.element_ty)
    tl.store(ptrs, mean, mask=(index < strides)[:, None] & wide)


def pool_keys_triton(key: Tensor, stride: int) -> Tensor:
    """Mean key of every stride, like :func:`method.ops.rr_scores.torch.pool_keys`."""
    launch, shape = kept("pool_keys", (key,), stride, lambda: _prepare(key, stride))
    key = unit_stride(key)
    pooled = torch.empty(shape, dtype=key.dtype, device=key.device)
    launch(key, pooled)
    return pooled


def _prepare(key: Tensor, stride: int) -> tuple[Ready, tuple[int, ...]]:
    """The launch for such keys, and the shape of their means."""
    check_triton(key, "pool_keys_triton")
    batch, kv_heads, k_len, dim = key.shape
    strides = -(-k_len // stride)
    launch = Ready(
        pool_keys_kernel,
        (batch * kv_heads, triton.cdiv(strides, POOL_STRIDES)),
        (*unit_stride(key).stride()[:3], kv_heads, k_len, strides),
        {
            "HEAD_DIM": dim, "PADDED": padded_head(dim), "STRIDE": stride, "TILE": POOL_STRIDES,
            "OVERLAP": overlaps(key.device),
        },
    )  # fmt: skip
    return launch, (batch, kv_heads, strides, dim)
EOF_PART
cat > $D/top_ranked.py <<'EOF_PART'
"""Top-τ selection in Triton: from block scores to the lists of kept blocks, without sorting.

One program takes one query row of one head. Sorting is replaced by a search for the lowest score
that is still kept: scores are non-negative, so their bits order as integers, and halving the range
of bit patterns finds it exactly in at most 31 sums; rows of one warp in a third of these, as each step
skips the patterns that no score has. The list is emitted by a prefix sum.
:mod:`method.ops.top_p.torch` is the readable twin and explains the three rules.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from method.blocks import BLOCK, BlockMask, check_lengths, num_blocks
from method.density import causal_blocks
from method.keep import KeepPolicy
from method.ops.launch import Ready, kept, stream_of
from method.ops.lists import add_share
from method.ops.triton_support import interpreting, overlaps

LANE_SCORES = 16
"""Scores one lane of a warp holds in registers."""

_ONE_WARP = tl.constexpr(32 * LANE_SCORES)
"""Columns that one warp holds: more make every reduction an exchange between warps."""

_RANKED = tl.constexpr(64)

_NARROWEST = 256
"""Columns of the narrowest kernel; rows that see more go to one of twice the width, and so on."""


@triton.jit
def _top(mass, live, paying, share, more, W: tl.constexpr, WORK: tl.constexpr, PAY: tl.constexpr):
    """Blocks of one row that hold ``share`` of its mass, the blocks that pay first left out.

    ``mass`` is fp32 ``[W]``, the row's scores; ``live`` bool ``[W]``, the visible blocks; ``paying``
    bool ``[W]``, those whose mass counts first if ``PAY``; ``more`` is 1 to take the next block too.
    """
    exact = tl.where(live, mass, 0.0).to(WORK)
    total = tl.sum(exact, 0)
    need = share.to(WORK) * total
    ranked = live
    if PAY:
        need -= tl.sum(tl.where(paying, exact, 0.0), 0)
        ranked = live & (paying == 0)
    bits = tl.where(ranked, mass.to(tl.int32, bitcast=True), -1)
    amount = tl.where(ranked, exact, 0.0)
    if W <= _RANKED:
        # Few enough to compare each with each; before a block come the higher ones, and its equals ahead.
        at = tl.arange(0, W)
        ahead = (bits[:, None] == bits[None, :]) & (at[:, None] < at[None, :])
        ahead = ahead | (bits[:, None] > bits[None, :])
        chosen = ranked & (tl.sum(tl.where(ahead, amount[:, None], 0.0), 0) < need)
    else:
        # The lowest bit pattern above which less than `need` lies. Above the highest lies nothing.
        high = tl.maximum(tl.max(bits, 0), 0)
        # Were all scores at most `floor`, leaving them out would cost half of what may be left out.
        floor = ((tl.sum(amount, 0) - need) * (0.5 / W)).to(tl.float32)
        low = tl.where(floor > 0, floor.to(tl.int32, bitcast=True), 0)
        low = tl.minimum(low, high)
        while low < high:
            middle = low + (high - low) // 2
            higher = bits > middle
            above = tl.sum(tl.where(higher, amount, 0.0), 0)
            down, up = middle, middle + 1
            if W <= _ONE_WARP:
                # Between two neighbouring scores nothing changes, so either end moves on to the next.
                down = tl.maximum(tl.max(tl.where(higher, -1, bits), 0), low)
                up = tl.min(tl.where(higher, bits, high), 0)
            enough = above < need
            high = tl.where(enough, down, high)
            low = tl.where(enough, low, up)
        above = tl.sum(tl.where(bits > low, amount, 0.0), 0)
        level = bits == low
        # Among equals the earlier block comes first.
        order = tl.cumsum(level.to(tl.int32), 0) - 1
        value = tl.max(tl.where(level, exact, 0.0), 0)
        before = tl.where(level, above + order.to(WORK) * value, 0.0)
        chosen = (bits >= low) & (before < need)
    if PAY:
        # The next block in rank: the highest of those left, the earliest among equals.
        left = tl.where(chosen, -1, bits)
        following = (left >= 0) & (left == tl.max(left, 0))
        room = tl.where(total > 0, more, 0)
        chosen = chosen | (following & (tl.cumsum(following.to(tl.int32), 0) <= room))
    return chosen


@triton.jit
def select_kernel(
    scores_ptr, share_ptr, index_ptr, count_ptr, tally_ptr, density_ptr,
    first, heads, q_len, k_len, rows, columns, released_rows, total,
    W: tl.constexpr, ROW: tl.constexpr, WORK: tl.constexpr, PAY: tl.constexpr,
    SINK: tl.constexpr, DIAGONAL: tl.constexpr, LAST_ROW: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Grid ``(rows from first on, B * Hq)``; scores and lists are ``[B, Hq, rows, columns]``.

    None of these rows sees more than ``W`` columns. ``PAY``: always-kept blocks pay first; rows with
    the diagonal before ``released_rows`` follow the released rule. A head's density, its blocks over
    ``total``, is there when all its rows are.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = first + tl.num_programs(0) - 1 - tl.program_id(0)
    member = tl.program_id(1)
    # Everything below that is no scalar is [W]: one entry for each key block of the row.
    at = tl.arange(0, W)
    newest = (tl.minimum((row + 1) * ROW, q_len) - 1 + k_len - q_len) // ROW
    live = at <= newest
    out = member.to(tl.int64) * rows + row
    line = scores_ptr + out * columns
    mass = tl.load(line + at, mask=live, other=0.0)
    share = tl.load(share_ptr + member % heads)
    kept = at < 0
    early = (newest < released_rows).to(tl.int32)
    # Bool [W]: blocks that are always kept, and those of them that pay first.
    paying = at < 0
    if SINK:
        kept = at == 0
        paying = (at == 0) & (early == 0)
    if DIAGONAL:
        kept = kept | (at == newest)
        paying = paying | (at == newest)
    # Blocks from here on are kept whatever their score.
    everything = tl.where(share >= 1.0, 0, W)
    if LAST_ROW:
        everything = tl.where(row == rows - 1, 0, everything)
    chosen = _top(mass, live, paying, share, early, W, WORK, PAY) | kept | (at >= everything)
    chosen = chosen & live
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(index_ptr + out * columns + place, at, mask=chosen)
    count = tl.sum(chosen.to(tl.int32), 0)
    tl.store(count_ptr + out, count)
    add_share(count, tally_ptr, density_ptr, member, rows, total)


def widths(rows: int, columns: int, shift: int) -> list[tuple[int, int, int]]:
    """Width of the kernel, first row and end of each launch, the widest first."""
    parts = []
    width, first = min(_NARROWEST, max(16, triton.next_power_of_2(columns))), 0
    while first < rows:
        end = rows if width >= columns else min(rows, max(first, width - -(-shift // BLOCK)))
        if end > first:
            parts.append((width, first, end))
        width, first = 2 * width, end
    return parts[::-1]


def shares(tau: float | Sequence[float], heads: int, device: torch.device) -> Tensor:
    """``tau`` as fp64 ``[Hq]`` on the device; without waiting for it if it is one number."""
    if isinstance(tau, int | float):
        return torch.full((heads,), float(tau), dtype=torch.float64, device=device)
    return torch.tensor(list(tau), dtype=torch.float64, device=device)


def select_blocks_triton(
    scores: Tensor,
    q_len: int,
    k_len: int,
    *,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None = None,
) -> BlockMask:
    """Top-τ selection on the GPU: the mask of :func:`method.ops.top_p.torch.select_blocks`.

    Sums are taken in fp64, in another order than the twin's: a block can differ only where the mass
    before it meets the share to within fp64 rounding (about 1 part in 10^15).

    Args:
        scores: fp32 ``[B, Hq, rows, columns]``, contiguous, non-negative; what lies above the
            diagonal is not read.
        q_len: query tokens.
        k_len: key tokens.
        tau: share of the mass, one number or one for each head.
        selector: one of :data:`method.ops.top_p.torch.SELECTORS`.
        keep: blocks that are always kept.
        released_rows: see :func:`method.ops.top_p.torch.select_blocks`.

    Raises:
        ValueError: scores are not fp32, not contiguous, or for other lengths; or not on a GPU.
    """
    shares_of = tau if isinstance(tau, int | float) else tuple(tau)
    options = q_len, k_len, shares_of, selector, keep, released_rows
    at = stream_of(scores.device) if scores.is_cuda else 0
    launches, share, tally = kept(
        "top_p", (scores,), (*options, at), lambda: _prepare(scores, *options)
    )
    indices = torch.empty(scores.shape, dtype=torch.int32, device=scores.device)
    counts = torch.empty(scores.shape[:3], dtype=torch.int32, device=scores.device)
    density = torch.empty(scores.shape[:2], dtype=torch.float32, device=scores.device)
    for launch in launches:
        launch(scores, share, indices, counts, tally, density)
    return BlockMask(indices, counts, q_len, k_len, density)


def _prepare(
    scores: Tensor,
    q_len: int,
    k_len: int,
    tau: float | Sequence[float],
    selector: str,
    keep: KeepPolicy,
    released_rows: int | None,
) -> tuple[list[Ready], Tensor, Tensor]:
    """The launches for such scores, the shares that the heads keep, and zeros to count blocks in.

    Launches on one stream may share these, which the last row puts back to zero.
    """
    batch, heads, rows, columns = scores.shape
    if (rows, columns) != (num_blocks(q_len), num_blocks(k_len)):
        raise ValueError(f"scores {tuple(scores.shape)} do not fit q_len={q_len}, k_len={k_len}")
    if scores.dtype != torch.float32 or not scores.is_contiguous():
        raise ValueError(f"select_blocks_triton needs contiguous float32 scores, got {scores.dtype}")
    if not scores.is_cuda and not interpreting():
        raise ValueError("select_blocks_triton needs CUDA tensors, or TRITON_INTERPRET=1")
    check_lengths(q_len, k_len)
    overlap = overlaps(scores.device)
    early = columns if released_rows is None else released_rows
    early = early if selector == "released" else 0
    launches = [
        Ready(
            select_kernel,
            (end - first, batch * heads),
            (first, heads, q_len, k_len, rows, columns, early, float(causal_blocks(q_len, k_len))),
            {
                "W": width, "ROW": BLOCK, "WORK": tl.float64, "PAY": selector != "top_p",
                "SINK": keep.sink, "DIAGONAL": keep.diagonal, "LAST_ROW": keep.last_row,
                "OVERLAP": overlap, "launch_pdl": overlap,
                "num_warps": max(1, width // (32 * LANE_SCORES)),
            },
        )
        for width, first, end in widths(rows, columns, k_len - q_len)
    ]  # fmt: skip
    tally = torch.zeros(batch * heads, dtype=torch.int64, device=scores.device)
    return launches, shares(tau, heads, scores.device), tally
EOF_PART
cat > $D/check.py <<'EOF_PART'
"""check.py VARIANT: estimate, mean keys and lists against the PyTorch twins; compiles what is timed."""
import importlib, sys, torch
name, _, part = sys.argv[1].partition(":")
m = lambda path: importlib.import_module(f"m_{name}.{path}")
scores_of, pool_of, select_of = m("ops.rr_scores.triton").block_scores_triton, m("ops.rr_scores.key_sums").pool_keys_triton, m("ops.top_p.triton").select_blocks_triton
twin = m("ops.rr_scores.torch"); lists = m("ops.top_p.torch"); keep = m("keep").RR_KEEP
CASES = [  # batch, heads, kv heads, q, k, dim, stride, dtype, over; the first ones fold
    (1, 4, 2, 5000, 5000, 128, 8, torch.bfloat16, "sum"), (1, 32, 8, 8192, 8192, 128, 8, torch.bfloat16, "sum"),
    (1, 8, 2, 16384, 16384, 128, 8, torch.bfloat16, "max"), (1, 4, 1, 2048, 6144, 128, 4, torch.bfloat16, "sum"),
    (1, 8, 1, 1000, 12345, 128, 32, torch.bfloat16, "sum"), (2, 7, 1, 4001, 4001, 64, 8, torch.float16, "sum"),
    (1, 4, 1, 20000, 20000, 128, 64, torch.bfloat16, "max"), (1, 3, 1, 130, 130, 128, 8, torch.bfloat16, "sum"),
    (1, 28, 4, 7777, 7777, 128, 16, torch.bfloat16, "sum"), (1, 2, 1, 1, 5000, 64, 8, torch.bfloat16, "sum"),
    (2, 32, 8, 9001, 9001, 128, 8, torch.bfloat16, "sum"), (2, 16, 2, 9001, 9003, 64, 4, torch.float16, "sum"),
    (1, 32, 8, 33000, 33000, 96, 8, torch.bfloat16, "sum"),
]
if name == "new":
    CASES = CASES[int(part or 0) :: 3]
elif name in ("loop", "tile16", "lanes32", "attention", "ranked"):  # an estimate like the others'
    CASES = CASES[:2] + CASES[7:8]
else:
    CASES = CASES[:2] + CASES[7:8] + CASES[10:11]
bad = 0
for b, h, hk, q_len, k_len, dim, stride, dtype, over in CASES:
    torch.manual_seed(q_len + stride)
    q = torch.randn(b, h, q_len, dim, device="cuda").to(dtype)
    k = torch.randn(b, hk, k_len, dim, device="cuda").to(dtype)
    try:
        options = {"scale": 0.2, "stride": stride, "over_samples": over}
        truth = twin.block_scores(q, k, **options)
        runs = []
        for r in range(4):
            torch.full((1 << 24,), float("nan"), device="cuda")  # what memory holds when it is given again
            runs.append(scores_of(q, k, **options))
        torch.cuda.synchronize()
        x = runs[0]
        same = all(torch.equal(x, one) for one in runs)
        err = (x - truth).abs()
        ok = bool((err <= 5e-5 + 5e-4 * truth.abs()).all())
        pools = bool(((pool_of(k, stride) - twin.pool_keys(k, stride)).abs() <= 2e-2).all())
        bits = torch.equal(pool_of(k, stride), twin.pool_keys(k, stride))
        given = {"tau": 0.9, "selector": "released", "keep": keep}
        mask = select_of(x, q_len, k_len, **given)
        moved = int((mask.to_map() ^ lists.select_blocks(x, q_len, k_len, **given)).sum())
        fine = ok and same and pools and moved == 0
    except Exception as error:
        fine, same, ok, bits, moved, err = False, None, repr(error)[:300], None, None, torch.zeros(1)
    bad += not fine
    print(f"{name} | {'ok' if fine else 'BAD'} | b{b} h{h} q{q_len} k{k_len} D{dim} S{stride} {over}: scores {ok} max {float(err.max()):.1e} repeatable {same} keys equal to the bit {bits} blocks moved {moved}", flush=True)
for length in () if part in ("0", "2") else (4096, 8192, 16384, 32768, 131072):
    q = torch.randn(1, 32, length, 128, device="cuda", dtype=torch.bfloat16); k = torch.randn(1, 8, length, 128, device="cuda", dtype=torch.bfloat16)
    select_of(scores_of(q, k, scale=128**-0.5, stride=8), length, length, tau=0.95, selector="released", keep=keep)
if name in ("main", "new", "nopdl", "attention") and part in ("", "0"):
    run = m("attention").SparsePrefill(m("rr").RRAttention(tau=0.95), keep)
    for length in (4096, 8192):
        run(*(torch.randn(1, n, length, 128, device="cuda", dtype=torch.bfloat16) for n in (32, 8, 8)), scale=128**-0.5, layer=0)
torch.cuda.synchronize()
print(f"{name}:{part} | {'good' if not bad else 'FAILED'}")
EOF_PART
cat > $D/stress.py <<'EOF_PART'
"""Whole calls back to back, inputs made by the kernel just before, against the variant without overlap."""
import sys, torch
import m_new.attention, m_new.rr, m_new.keep, m_nopdl.attention, m_nopdl.rr, m_nopdl.keep
def prefill(m): return m.attention.SparsePrefill(m.rr.RRAttention(tau=0.9), m.keep.RR_KEEP, "hopper")
LENGTHS = ((8192, 32, 8), (2000, 8, 2), (20000, 32, 8))
if len(sys.argv) > 2:  # compile
    length, heads, kv = LENGTHS[int(sys.argv[2])]
    run = prefill(m_new if sys.argv[1] == "new" else m_nopdl)
    run(*(torch.randn(1, n, length, 128, device="cuda", dtype=torch.bfloat16) for n in (heads, kv, kv)), scale=0.1, layer=0)
    torch.cuda.synchronize()
    sys.exit()
wrong = 0
for length, heads, kv in LENGTHS:
    torch.manual_seed(length)
    base = [torch.randn(1, n, length, 128, device="cuda", dtype=torch.bfloat16) for n in (heads, kv, kv)]
    slow, fast = prefill(m_nopdl), prefill(m_new)
    factors = [0.5 + 0.25 * i for i in range(6)]
    truth = []
    for f in factors:
        given = [one * f for one in base]
        torch.cuda.synchronize()
        got = slow(*given, scale=0.1, layer=0); torch.cuda.synchronize()
        truth.append((got.output.clone(), got.density.clone()))
    q, k, v = (torch.empty_like(one) for one in base)
    found = []
    for turn in range(60):
        f = factors[turn % 6]
        torch.mul(base[1], f, out=k); torch.mul(base[2], f, out=v); torch.mul(base[0], f, out=q)
        got = fast(q, k, v, scale=0.1, layer=0)
        found.append((turn % 6, got.output.clone() if turn % 3 == 0 else got.output, got.density))
        if turn % 12 == 11:
            for i, o, d in found: wrong += not (torch.equal(o, truth[i][0]) and torch.equal(d, truth[i][1]))
            found.clear()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(3): fast(q, k, v, scale=0.1, layer=0)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(3): got = fast(q, k, v, scale=0.1, layer=0)
    for turn in range(12):
        f = factors[turn % 6]
        for one, b in zip((q, k, v), base): torch.mul(b, f, out=one)
        graph.replay()
        o, d = got.output.clone(), got.density.clone()
        wrong += not (torch.equal(o, truth[turn % 6][0]) and torch.equal(d, truth[turn % 6][1]))
    print("stress", length, "wrong so far", wrong, flush=True)
print("stress", "ok" if not wrong else "FAILED")
EOF_PART
cat > $D/timing.py <<'EOF_PART'
"""Selections of all variants, side by side in random order, cache flushed; whole calls; host; by kernel."""
import importlib, random, sys, time, torch
from statistics import median
names = [n for n in open(sys.argv[1]).read().split() if n != "trace"]
bad = set(sys.argv[2:]); names = [n for n in names if n not in bad]
print(torch.cuda.get_device_name(), torch.__version__, "variants", names)
flush = torch.empty(1 << 28, dtype=torch.int32, device="cuda")
def timed(calls, n, cold=True):
    times = {name: [] for name in calls}
    for r in range(n + 3):
        events, items = {}, list(calls.items())
        random.Random(r).shuffle(items)
        for name, call in items:
            for _ in range(2): flush.zero_()  # the host runs ahead
            if not cold:
                for _ in range(2): call()
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record(); call(); b.record(); events[name] = a, b
        torch.cuda.synchronize()
        if r >= 3:
            for name, (a, b) in events.items(): times[name].append(1000 * a.elapsed_time(b))
    return {name: (median(t), min(t)) for name, t in times.items()}
def data(length, dim=128):
    torch.manual_seed(length)
    return [torch.randn(1, h, length, dim, device="cuda", dtype=torch.bfloat16) for h in (32, 8, 8)]
def selection(name, q, k):
    m = lambda path: importlib.import_module(f"m_{name}.{path}")
    method, keep, kept = m("rr").RRAttention(tau=0.95), m("keep").RR_KEEP, m("ops.launch").Launches()
    def call():
        with kept: return method.select(q, k, scale=128**-0.5, layer=0, keep=keep)
    for _ in range(2): mask = call()
    return call, mask
from rr_bench.latency.baselines import dense_attention
empty = torch.empty(32, device="cuda")
for length in (8192, 4096, 16384, 32768, 131072):
    q, k, v = data(length)
    calls, first = {"one empty kernel": empty.zero_}, None
    for name in names:
        call, mask = selection(name, q, k)
        first = mask if first is None else first
        moved = int((mask.to_map() ^ first.to_map()).sum())
        if moved: print(f"{length} {name}: {moved} blocks of {int(first.counts.sum())} differ from {names[0]}'s")
        calls[name] = call
        if name == "main":
            method = importlib.import_module("m_main.rr").RRAttention(tau=0.95)
            calls["main, as in the table before"] = lambda method=method: method.select(q, k, scale=128**-0.5, layer=0, keep=method.paper_keep)
    t = timed(calls, 25)
    try:
        fa3 = dense_attention("fa3", q, k, v)
        dense = timed({"fa3": lambda: fa3(q, k, v, 128**-0.5)}, 3 if length > 1e5 else 9)["fa3"][0]
    except Exception as error:
        print(repr(error)[:200]); dense = float("nan")
    print(f"{length:6d} dense fa3 {dense:.1f} us")
    for name, (mid, low) in t.items(): print(f"{length:6d} selection {name:30s} median {mid:8.1f} min {low:8.1f} us  {100 * mid / dense:5.2f} %", flush=True)
    if length in (4096, 8192):
        for name, (mid, low) in timed(calls, 15, cold=False).items(): print(f"{length:6d} warm cache {name:30s} median {mid:8.1f} min {low:8.1f} us", flush=True)
# parts
for length in (8192, 131072):
    q, k, v = data(length)
    pools = {}
    for name in names:
        if name in ("main", "new", "loop", "tile16"):
            m = importlib.import_module(f"m_{name}.ops.rr_scores.key_sums"); kept = importlib.import_module(f"m_{name}.ops.launch").Launches()
            def call(m=m, kept=kept):
                with kept: return m.pool_keys_triton(k, 8)
            call(); pools[name] = call
    for name, (mid, low) in timed(pools, 25).items(): print(f"{length:6d} mean keys {name:30s} median {mid:8.1f} min {low:8.1f} us", flush=True)
    pools = {}
    scores = None
    for name in names:
        if name in ("main", "new", "lanes32", "ranked"):
            m = lambda path: importlib.import_module(f"m_{name}.{path}")
            if scores is None: scores = m("ops.rr_scores.triton").block_scores_triton(q, k, scale=128**-0.5, stride=8)
            kept, run, keep = m("ops.launch").Launches(), m("ops.top_p.triton").select_blocks_triton, m("keep").RR_KEEP
            def call(kept=kept, run=run, keep=keep):
                with kept: return run(scores, length, length, tau=0.95, selector="released", keep=keep)
            call(); pools[name] = call
    for name, (mid, low) in timed(pools, 25).items(): print(f"{length:6d} top-tau {name:30s} median {mid:8.1f} min {low:8.1f} us", flush=True)
# whole calls, and what the host takes
for length in (4096, 8192):
    q, k, v = data(length)
    calls = {}
    for name in names:
        if name in ("main", "new", "nopdl", "attention"):
            m = lambda path: importlib.import_module(f"m_{name}.{path}")
            run = m("attention").SparsePrefill(m("rr").RRAttention(tau=0.95), m("keep").RR_KEEP)
            for _ in range(4): run(q, k, v, scale=128**-0.5, layer=0)
            calls[name] = lambda run=run: run(q, k, v, scale=128**-0.5, layer=0)
    for name, (mid, low) in timed(calls, 25).items(): print(f"{length:6d} selection and attention {name:12s} median {mid:8.1f} min {low:8.1f} us", flush=True)
    for r in range(3):
        for name, call in calls.items():
            for _ in range(30): flush.zero_()
            begin = time.perf_counter()
            for _ in range(40): call()
            took = (time.perf_counter() - begin) / 40
            torch.cuda.synchronize()
            if r == 2: print(f"{length:6d} host, a queued call {name:12s} {1e6 * took:.1f} us", flush=True)
from torch.profiler import ProfilerActivity, profile
for length in (8192, 131072):
    q, k, v = data(length)
    for name in names:
        if name not in ("main", "new", "nopdl", "nofold", "lateq") or (length > 1e5 and name not in ("main", "new", "nopdl")): continue
        call, _ = selection(name, q, k)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
            for _ in range(12): flush.zero_(); call()
            torch.cuda.synchronize()
        events = sorted((e for e in prof.events() if e.device_type == torch.autograd.DeviceType.CUDA), key=lambda e: e.time_range.start)
        calls, spans, kernels = [], [], {}
        for e in events:
            if "elementwise" in e.name: calls.append([])
            elif calls: calls[-1].append(e)
        for one in calls[2:]:
            if not one: continue
            spans.append(one[-1].time_range.end - one[0].time_range.start)
            for i, e in enumerate(one):
                own = kernels.setdefault((i, e.name[:40]), ([], [], []))
                own[0].append(e.time_range.elapsed_us()); own[1].append(e.time_range.start - one[0].time_range.start); own[2].append(e.time_range.end - one[0].time_range.start)
        if spans: print(f"== {length} {name}: from the first kernel's start to the last one's end {median(spans):.1f} us")
        for (i, kernel), (own, begin, end) in kernels.items(): print(f"     {median(begin):8.1f} .. {median(end):8.1f}  {median(own):8.1f}  {kernel}", flush=True)
EOF_PART
cat > $D/trace.py <<'EOF_PART'
"""Clocks inside the estimate at 8K."""
import torch
import m_trace.rr as rr, m_trace.keep as keep, m_trace.ops.launch as launch, m_trace.ops.rr_scores.hopper as hopper
flush = torch.empty(1 << 28, dtype=torch.int32, device="cuda")
q, k = (torch.randn(1, h, 8192, 128, device="cuda", dtype=torch.bfloat16) for h in (32, 8))
kept = launch.Launches(); method = rr.RRAttention(tau=0.95)
for cold in (True, False):
    for _ in range(4):
        if cold: flush.zero_()
        with kept: method.select(q, k, scale=128**-0.5, layer=0, keep=keep.RR_KEEP)
    torch.cuda.synchronize()
    t = hopper.LAST[-1][: 128 * 32].view(128, 4, 8).cpu().long()
    start, end = t[:, :, 0], t[:, :, 7]
    base = int(start.min())
    print("== cache flushed" if cold else "== warm", "| programs start (ns)", [int(x) for x in torch.quantile((start[:, 0] - base).double(), torch.tensor([0, .25, .5, .75, 1], dtype=torch.double))],
          "| end", [int(x) for x in torch.quantile((end.max(1).values - base).double(), torch.tensor([0, .25, .5, .75, 1], dtype=torch.double))])
    print("clocks, mean (max): from the start to queries stored, waited for the keys, all chunks, weighed, drained; by consumer")
    for w in range(4):
        d = t[:, w, 1:7] - t[:, w, 1:2]
        print("  ", w, [f"{int(d[:, i].double().mean())} ({int(d[:, i].max())})" for i in range(1, 6)])
EOF_PART
cat > $D/pair.py <<'EOF_PART'
"""The second kernel of the estimate (two consumers of two halves each), at 128K."""
import random, sys, time, torch
from statistics import median
import launch
from launch import prepare, scores_of
from method.ops.rr_scores.key_sums import pool_keys_triton
from method.ops.rr_scores.torch import block_scores
from method.ops.rr_scores.triton import block_scores_triton
V = {n: launch.VARIANTS[n] for n in ("base", "half", "pair", "pair half", "pair half turns", "pair half cubic 1/8", "diag pair half, no maxima")}
if len(sys.argv) > 1:
    name = sys.argv[1]
    torch.manual_seed(0)
    for b, h, hk, n, dim in ((1, 4, 2, 5000, 128), (2, 32, 8, 9001, 128)):
        if name.startswith("diag"): continue
        q = torch.randn(b, h, n, dim, device="cuda", dtype=torch.bfloat16); k = torch.randn(b, hk, n, dim, device="cuda", dtype=torch.bfloat16)
        truth = block_scores(q, k, scale=0.2, stride=8)
        x = scores_of(q, k, scale=0.2, stride=8, flags=V[name])
        print("pair |", name, "|", "ok" if bool(((x - truth).abs() <= 5e-5 + 5e-4 * truth).all()) else "BAD", n, flush=True)
    q = torch.randn(1, 32, 32768, 128, device="cuda", dtype=torch.bfloat16); k = torch.randn(1, 8, 32768, 128, device="cuda", dtype=torch.bfloat16)
    scores_of(q, k, scale=0.088, stride=8, flags=V[name]); torch.cuda.synchronize()
    sys.exit()
flush = torch.empty(1 << 28, dtype=torch.int32, device="cuda")
for length in (32768, 131072):
    q = torch.randn(1, 32, length, 128, device="cuda", dtype=torch.bfloat16); k = torch.randn(1, 8, length, 128, device="cuda", dtype=torch.bfloat16)
    pooled, out = pool_keys_triton(k, 8), torch.empty(1, 32, length // 128, length // 128, device="cuda")
    calls = {}
    for name, flags in V.items():
        try:
            fill, _ = prepare(q, k, scale=128**-0.5, stride=8, flags=flags); fill(q, pooled, out); torch.cuda.synchronize()
            calls[name] = lambda fill=fill: fill(q, pooled, out)
        except Exception as error: print("FAILED", name, repr(error)[:200])
    times = {n: [] for n in calls}
    for r in range(13):
        items = list(calls.items()); random.Random(r).shuffle(items)
        for name, call in items:
            flush.zero_(); a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record(); call(); b.record(); torch.cuda.synchronize(); times[name].append(1000 * a.elapsed_time(b))
    for name, t in times.items(): print(f"{length:6d} estimate {name:30s} median {median(t[2:]):8.1f} us", flush=True)
EOF_PART
cat > $D/kernel.py <<'EOF_PART'
"""RRAttention's block scores on Hopper, with one matrix product and no logits in memory.

One tile is 256 samples of one head. The producer warp streams the pooled keys it can see; each of
four consumer warpgroups owns 64 samples, so that one's softmax runs beside another's product. A
softmax needs the sum over a whole row before any of its parts can be compared with those of
another row, so the consumers leave every chunk's block sums in a scratch buffer of their program,
relative to the highest logit up to there, and weigh and reduce them once the row is through.

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

# Renamed in Triton 3.7.
_sync = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.constexpr_function
def _barrier(instruction, number):
    return f"bar.{instruction} {8 + number}, 256; mov.b32 $0, $1;"


@gluon.jit
def _turn_begins(step, WHO: gl.constexpr):
    gl.inline_asm_elementwise(_barrier("sync", WHO), "=r,r", [step], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _turn_ends(step, WHO: gl.constexpr, CONSUMERS: gl.constexpr):
    gl.inline_asm_elementwise(_barrier("arrive", (WHO + 1) % CONSUMERS), "=r,r", [step], gl.int32, is_pure=False, pack=1)


@gluon.constexpr_function
def _exp_asm(pack, poly, degree):
    """2^x of `pack` numbers, the last `poly` of them by a polynomial on the FMA pipes."""
    cubic = [0.9999280733463329, 0.6932609856528295, 0.24261112543767735, 0.055171669541419416]
    quartic = [0.9999992614437778, 0.6931218146828066, 0.2402474483031116, 0.05591786076153613, 0.00957010196764391]
    hexes = {3: ['0f3f7ffb49', '0f3f31798d', '0f3e786f0d', '0f3d61fbb0'],
             4: ['0f3f7ffff4', '0f3f31706e', '0f3e76036d', '0f3d650a20', '0f3c1ccbeb']}[degree]
    lines = []
    for i in range(pack):
        if i < pack - poly:
            lines.append(f"ex2.approx.ftz.f32 ${i}, ${pack + i};")
            continue
        lines.append("{ .reg .f32 y, t, r, p; .reg .b32 a, b;")
        lines.append(f"max.f32 y, ${pack + i}, 0fC2FC0000;")
        lines.append("add.rn.f32 t, y, 0f4B400000; sub.rn.f32 r, t, 0f4B400000; sub.rn.f32 r, y, r;")
        lines.append(f"mov.f32 p, {hexes[degree]};")
        for k in range(degree - 1, -1, -1):
            lines.append(f"fma.rn.f32 p, p, r, {hexes[k]};")
        lines.append(f"mov.b32 a, t; mov.b32 b, p; shl.b32 a, a, 23; add.s32 b, b, a; mov.b32 ${i}, b; }}")
    return " ".join(lines)


@gluon.constexpr_function
def _exp_constraints(pack):
    return ",".join(["=&f"] * pack + ["f"] * pack)


@gluon.jit
def _exp2(x, POLY: gl.constexpr, MASKED: gl.constexpr):
    """POLY: 0 for none, else 100 * pack + 10 * by polynomial + degree."""
    if POLY == 0 or MASKED:
        return gl.exp2(x)
    else:
        return gl.inline_asm_elementwise(
            _exp_asm(POLY // 100, POLY // 10 % 10, POLY % 10), _exp_constraints(POLY // 100), [x], gl.float32, is_pure=True,
            pack=POLY // 100,
        )


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
def _producer(
    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
    SAMPLES: gl.constexpr, STRIDE: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the pooled keys of every tile into shared memory, as the consumers free it."""
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    k_ready, k_free = bars
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    step = 0
    turn = 0
    index = gl.atomic_add(counter_ptr, 1)
    while index < members * tiles:
        slot = turn % 2
        mbarrier.wait(tile_bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
        slots.index(slot).store(gl.full([1], index, gl.int32, layout))
        mbarrier.arrive(tile_bars.index(slot), count=1)
        member, tile = _place(index, problem)
        kv = (member // heads) * (heads // group) + (member % heads) // group
        for chunk in range(0, _chunks((tile + 1) * SAMPLES, problem, STRIDE, KEYS)):
            stage = step % STAGES
            mbarrier.wait(k_free.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [kv, chunk * KEYS, 0], k_ready.index(stage), k_bufs.index(stage)
            )
            step += 1
        turn += 1
        index = gl.atomic_add(counter_ptr, 1)
    if index == members * tiles + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)  # the last program to end: the next launch starts from 0 again
    slot = turn % 2
    mbarrier.wait(tile_bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
    slots.index(slot).store(gl.full([1], index, gl.int32, layout))
    mbarrier.arrive(tile_bars.index(slot), count=1)


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
def _by_block16(y, KEYS: gl.constexpr, PER: gl.constexpr):
    """As _by_block, exponentials in pairs; PER 16 only."""
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    PARTS: gl.constexpr = _parts_layout(BLOCKS)
    w = gl.inline_asm_elementwise(
        "{ .reg .b32 t; cvt.rn.f16x2.f32 t, $2, $1; ex2.approx.f16x2 $0, t; }", "=r,f,f", [y], gl.float16, is_pure=True, pack=2
    )
    a, b = gl.split(w.reshape([OWN, BLOCKS, 2, 4, 2]).permute((0, 1, 3, 4, 2)))
    both = gl.inline_asm_elementwise("add.rn.f16x2 $0, $1, $2;", "=r,r,r", [a, b], gl.float16, is_pure=True, pack=2)
    parts = gl.sum(both.to(gl.float32), 3)
    return gl.sum(gl.convert_layout(parts, PARTS), 2)


@gluon.jit
def _scratch_row(sample, PER: gl.constexpr):
    """Row of a sample's sums in scratch: the ``PER`` samples that are added up lie far apart, so that
    one thread reads them all and its neighbours what lies beside them.
    """
    return sample % PER * (64 // PER) + sample // PER


@gluon.jit
def _block_sums(
    logits, peak, norm, factor, last, sums_at, peaks_at,
    KEYS: gl.constexpr, PER: gl.constexpr, MASKED: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr,
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
    if DIAG & 1:
        new_peak = gl.full([OWN], 0.0, gl.float32, peak.type.layout)
    base = new_peak
    if MASKED:
        base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    shift = gl.convert_layout(base, gl.SliceLayout(1, gl.SliceLayout(2, L)))
    y = cells * factor - gl.expand_dims(shift[:, None], 2)
    if POLY == 16:
        sums = _by_block16(y, KEYS, PER)
    else:
        sums = _by_block(_exp2(y, POLY, MASKED), KEYS, PER)
    N: gl.constexpr = norm.type.layout
    quarters = gl.convert_layout(gl.sum(sums.reshape([OWN, 4, BLOCKS // 4]), 2), N)
    decay = gl.convert_layout(gl.exp2(peak - base), gl.SliceLayout(1, N))
    norm = norm * decay[:, None] + quarters
    layout: gl.constexpr = sums.type.layout
    row = _scratch_row(gl.arange(0, OWN, layout=gl.SliceLayout(1, layout)), PER)
    column = gl.arange(0, BLOCKS, layout=gl.SliceLayout(0, layout))
    if HALF == 1:
        sums = (sums * 1024).to(gl.float16)
    elif HALF == 2:
        sums = gl.maximum((sums.to(gl.int32, bitcast=True) - (847249408 - 2048)) >> 12, 0).to(gl.int16)
    gl.store(sums_at + row[:, None] * BLOCKS + column[None, :], sums)
    gl.store(peaks_at + gl.arange(0, OWN, layout=base.type.layout), base)
    return new_peak, norm


@gluon.jit
def _weigh(
    scores, sums_at, peaks_at, peak, share, first_row, chunks, rows, columns,
    KEYS: gl.constexpr, PER: gl.constexpr, SAMPLES: gl.constexpr, MAXIMUM: gl.constexpr, HALF: gl.constexpr,
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
        if HALF == 2:
            code = gl.load(sums_at + at3, mask=live3, other=0).to(gl.int32) & 0xFFFF
            sums = gl.where(code == 0, 0.0, ((code << 12) + 847249408).to(gl.float32, bitcast=True))
        else:
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
def _stamp(trace, step, WHICH: gl.constexpr, WHO: gl.constexpr, DIAG: gl.constexpr):
    if DIAG & 64:
        now = gl.inline_asm_elementwise("mov.u32 $0, %clock;", "=r,r", [step], gl.int32, is_pure=False, pack=1)
        if gl.program_id(0) == 40 and step < 256:
            gl.store(trace + (step * 4 + WHO) * 4 + WHICH, now)


@gluon.jit
def _logits(
    q, step, k_bufs, bars, KEYS: gl.constexpr, DIM: gl.constexpr, STAGES: gl.constexpr,
    S: gl.constexpr, WHO: gl.constexpr, TURNS: gl.constexpr, CONSUMERS: gl.constexpr, trace, DIAG: gl.constexpr,
):  # fmt: skip
    """Products of 64 samples with the chunk of keys that comes ``step``-th."""
    # q is [64, DIM], k [DIM, KEYS]; the logits are [64, KEYS].
    k_ready, k_free = bars
    stage = step % STAGES
    _stamp(trace, step, 0, WHO, DIAG)
    mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
    k = k_bufs.index(stage).reshape([KEYS, DIM]).permute((1, 0))
    zeros = gl.zeros([64, KEYS], gl.float32, S)
    _stamp(trace, step, 1, WHO, DIAG)
    if TURNS > 0:
        _turn_begins(step, WHO)
    _stamp(trace, step, 2, WHO, DIAG)
    if TURNS == 3:
        H: gl.constexpr = DIM // 2
        logits = warpgroup_mma(q.slice(0, H, 1), k.slice(0, H, 0), zeros, use_acc=False, is_async=True)
        logits = warpgroup_mma(q.slice(H, H, 1), k.slice(H, H, 0), logits, is_async=True)
        logits = warpgroup_mma_wait(1, [logits])
        _turn_ends(step, WHO, CONSUMERS)
    elif DIAG & 32:
        logits = warpgroup_mma(q.slice(0, 16, 1), k.slice(0, 16, 0), zeros, use_acc=False, is_async=True)
    else:
        logits = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    if TURNS == 1:
        _turn_ends(step, WHO, CONSUMERS)
    logits = warpgroup_mma_wait(0, [logits])
    if TURNS == 2:
        _turn_ends(step, WHO, CONSUMERS)
    _stamp(trace, step, 3, WHO, DIAG)
    mbarrier.arrive(k_free.index(stage), count=1)
    return logits


@gluon.jit
def _consumer(
    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
    WHO: gl.constexpr, SAMPLES: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    KEYS: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    MAXIMUM: gl.constexpr, TURNS: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr, CONSUMERS: gl.constexpr,
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
    scratch = scratch_ptr + gl.program_id(0).to(gl.int64) * chunk_room * SAMPLES * (BLOCKS + 1)
    if HALF == 2:
        sums_at = scratch.to(gl.pointer_type(gl.int16), bitcast=True) + WHO * OWN * BLOCKS
    elif HALF == 1:
        sums_at = scratch.to(gl.pointer_type(gl.float16), bitcast=True) + WHO * OWN * BLOCKS
    else:
        sums_at = scratch + WHO * OWN * BLOCKS
    trace = (scratch_ptr + gl.num_programs(0).to(gl.int64) * chunk_room * SAMPLES * (BLOCKS + 1)).to(gl.pointer_type(gl.int32), bitcast=True)
    peaks_at = scratch + chunk_room * (SAMPLES * BLOCKS) + WHO * OWN
    step = 0
    turn = 0
    if TURNS > 0 and WHO == CONSUMERS - 1:
        _turn_ends(step, WHO, CONSUMERS)
    index = _next_tile(turn, slots, tile_bars)
    while index < members * tiles:
        member, tile = _place(index, problem)
        item = (member // heads).to(gl.int64)
        head = (member % heads).to(gl.int64)
        start = gl.load(starts_ptr + head).to(gl.int32)
        first = tile * SAMPLES + WHO * OWN
        token = (first + gl.arange(0, OWN, layout=gl.SliceLayout(1, QL))) * STRIDE + start
        dims = gl.arange(0, DIM, layout=gl.SliceLayout(0, QL))
        there = (token < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
        at = q_ptr + item * stride_qb + head * stride_qh
        at += token.to(gl.int64)[:, None] * stride_ql + dims[None, :]
        q.store(gl.load(at, mask=there, other=0.0))
        fence_async_shared()
        _sync()
        token = (first + gl.arange(0, OWN, layout=gl.SliceLayout(1, S))) * STRIDE + start
        last = gl.minimum((token + shift) // STRIDE, strides - 1)
        # The tile's last rows may see more than this warpgroup's.
        tile_chunks = _chunks((tile + 1) * SAMPLES, problem, STRIDE, KEYS)
        chunks = _chunks(first + OWN, problem, STRIDE, KEYS)
        # Chunks before this one are visible to every sample; one with a mask always remains.
        interior = gl.minimum((first * STRIDE + start + shift) // STRIDE + 1, strides) // KEYS
        interior = gl.minimum(interior, chunks - 1)
        peak = gl.full([OWN], float("-inf"), gl.float32, gl.SliceLayout(1, S))
        norm = gl.full([OWN, 4], 0.0, gl.float32, gl.SliceLayout(2, _parts_layout(4)))

        for chunk in range(0, interior):
            logits = _logits(q, step, k_bufs, bars, KEYS, DIM, STAGES, S, WHO, TURNS, CONSUMERS, trace, DIAG)
            if DIAG & 16:
                if step < -1:
                    peak, norm = _block_sums(
                        logits, peak, norm, factor, last,
                        sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES, KEYS, PER, False, POLY, HALF, DIAG,
                    )  # fmt: skip
            else:
                peak, norm = _block_sums(
                    logits, peak, norm, factor, last,
                    sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES, KEYS, PER, False, POLY, HALF, DIAG,
                )  # fmt: skip
            step += 1
        for chunk in range(interior, chunks):
            logits = _logits(q, step, k_bufs, bars, KEYS, DIM, STAGES, S, WHO, TURNS, CONSUMERS, trace, DIAG)
            if DIAG & 16:
                if step < -1:
                    peak, norm = _block_sums(
                        logits, peak, norm, factor, last - chunk * KEYS,
                        sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES, KEYS, PER, True, POLY, HALF, DIAG,
                    )  # fmt: skip
            else:
                peak, norm = _block_sums(
                    logits, peak, norm, factor, last - chunk * KEYS,
                    sums_at + chunk * SAMPLES * BLOCKS, peaks_at + chunk * SAMPLES, KEYS, PER, True, POLY, HALF, DIAG,
                )  # fmt: skip
            step += 1
        for _chunk in range(chunks, tile_chunks):
            mbarrier.wait(k_ready.index(step % STAGES), (step // STAGES) & 1)
            if TURNS > 0:
                _turn_begins(step, WHO)
                _turn_ends(step, WHO, CONSUMERS)
            mbarrier.arrive(k_free.index(step % STAGES), count=1)
            step += 1
        # What this warpgroup wrote, other threads of it read.
        _sync()
        total = gl.convert_layout(gl.sum(norm, 1), peak.type.layout)
        share = gl.where(token < q_len, (0.0009765625 if HALF == 1 else 1.0) / total, 0.0)
        if DIAG & 2:
            chunks = 1
        _weigh(
            scores_ptr + member.to(gl.int64) * rows * columns, sums_at, peaks_at, peak, share,
            first // PER, chunks, rows, columns, KEYS, PER, SAMPLES, MAXIMUM, HALF,
        )  # fmt: skip
        _sync()
        turn += 1
        index = _next_tile(turn, slots, tile_bars)


@gluon.jit
def block_scores_gluon_kernel(
    q_ptr, k_desc, scores_ptr, scratch_ptr, starts_ptr, counter_ptr,
    stride_qb, stride_qh, stride_ql,
    members, heads, group, q_len, shift, strides, rows, columns, tiles, chunk_room, factor,
    HEAD_DIM: gl.constexpr, DIM: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    SAMPLES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr, MAXIMUM: gl.constexpr,
    TURNS: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr, CONSUMERS: gl.constexpr,
    CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr,
):  # fmt: skip
    """Any 1-D grid: programs fetch tiles as they get free.

    ``factor`` is ``scale * log2(e)``; ``chunk_room`` chunks fit into a program's scratch. With
    ``MAXIMUM`` a block's score is its largest mass of any sample, else their sum.
    """
    # Shared memory: 64 samples of each consumer, and a ring of STAGES chunks of KEYS pooled keys.
    Q_LAYOUT: gl.constexpr = gl.NVMMASharedLayout(min(128, 2 * DIM), 16, 2)
    q_bufs = gl.allocate_shared_memory(k_desc.dtype, [CONSUMERS, 64, DIM], Q_LAYOUT)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, KEYS, DIM], k_desc.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    slots = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for half in gl.static_range(2):
        mbarrier.init(tile_bars.index(half), count=1)
        mbarrier.init(tile_bars.index(2 + half), count=CONSUMERS)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=CONSUMERS)
    # The copy engine must see the barriers as they are now.
    fence_async_shared()
    problem = (members, heads, group, q_len, shift, strides, rows, columns, tiles)
    bars = (k_ready, k_free)
    inputs = (q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor)
    outputs = (scores_ptr, scratch_ptr, chunk_room)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    0, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    1, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_producer, (
                    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
                    SAMPLES, STRIDE, KEYS, STAGES,
                )),
            ],
            [4, 1],
            [CONSUMER_REGS, PRODUCER_REGS],
        )
    else:
        gl.warp_specialize(
            [
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    0, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    1, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    2, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    3, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_producer, (
                    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
                    SAMPLES, STRIDE, KEYS, STAGES,
                )),
            ],
            [4, 4, 4, 1],
            [CONSUMER_REGS, CONSUMER_REGS, CONSUMER_REGS, PRODUCER_REGS],
        )


DEFAULTS = {"TURNS": 0, "POLY": 0, "HALF": 0, "DIAG": 0, "CONSUMERS": 4}
EOF_PART
cat > $D/kernel2.py <<'EOF_PART'
"""RRAttention's block scores on Hopper, with one matrix product and no logits in memory.

One tile is 256 samples of one head. The producer warp streams the pooled keys it can see; each of
four consumer warpgroups owns 64 samples, so that one's softmax runs beside another's product. A
softmax needs the sum over a whole row before any of its parts can be compared with those of
another row, so the consumers leave every chunk's block sums in a scratch buffer of their program,
relative to the highest logit up to there, and weigh and reduce them once the row is through.

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

# Renamed in Triton 3.7.
_sync = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.constexpr_function
def _barrier(instruction, number):
    return f"bar.{instruction} {8 + number}, 256; mov.b32 $0, $1;"


@gluon.jit
def _turn_begins(step, WHO: gl.constexpr):
    gl.inline_asm_elementwise(_barrier("sync", WHO), "=r,r", [step], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _turn_ends(step, WHO: gl.constexpr, CONSUMERS: gl.constexpr):
    gl.inline_asm_elementwise(_barrier("arrive", (WHO + 1) % CONSUMERS), "=r,r", [step], gl.int32, is_pure=False, pack=1)


@gluon.constexpr_function
def _exp_asm(pack, poly, degree):
    """2^x of `pack` numbers, the last `poly` of them by a polynomial on the FMA pipes."""
    cubic = [0.9999280733463329, 0.6932609856528295, 0.24261112543767735, 0.055171669541419416]
    quartic = [0.9999992614437778, 0.6931218146828066, 0.2402474483031116, 0.05591786076153613, 0.00957010196764391]
    hexes = {3: ['0f3f7ffb49', '0f3f31798d', '0f3e786f0d', '0f3d61fbb0'],
             4: ['0f3f7ffff4', '0f3f31706e', '0f3e76036d', '0f3d650a20', '0f3c1ccbeb']}[degree]
    lines = []
    for i in range(pack):
        if i < pack - poly:
            lines.append(f"ex2.approx.ftz.f32 ${i}, ${pack + i};")
            continue
        lines.append("{ .reg .f32 y, t, r, p; .reg .b32 a, b;")
        lines.append(f"max.f32 y, ${pack + i}, 0fC2FC0000;")
        lines.append("add.rn.f32 t, y, 0f4B400000; sub.rn.f32 r, t, 0f4B400000; sub.rn.f32 r, y, r;")
        lines.append(f"mov.f32 p, {hexes[degree]};")
        for k in range(degree - 1, -1, -1):
            lines.append(f"fma.rn.f32 p, p, r, {hexes[k]};")
        lines.append(f"mov.b32 a, t; mov.b32 b, p; shl.b32 a, a, 23; add.s32 b, b, a; mov.b32 ${i}, b; }}")
    return " ".join(lines)


@gluon.constexpr_function
def _exp_constraints(pack):
    return ",".join(["=&f"] * pack + ["f"] * pack)


@gluon.jit
def _exp2(x, POLY: gl.constexpr, MASKED: gl.constexpr):
    """POLY: 0 for none, else 100 * pack + 10 * by polynomial + degree."""
    if POLY == 0 or MASKED:
        return gl.exp2(x)
    else:
        return gl.inline_asm_elementwise(
            _exp_asm(POLY // 100, POLY // 10 % 10, POLY % 10), _exp_constraints(POLY // 100), [x], gl.float32, is_pure=True,
            pack=POLY // 100,
        )


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
def _producer(
    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
    SAMPLES: gl.constexpr, STRIDE: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Copy the pooled keys of every tile into shared memory, as the consumers free it."""
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    k_ready, k_free = bars
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    step = 0
    turn = 0
    index = gl.atomic_add(counter_ptr, 1)
    while index < members * tiles:
        slot = turn % 2
        mbarrier.wait(tile_bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
        slots.index(slot).store(gl.full([1], index, gl.int32, layout))
        mbarrier.arrive(tile_bars.index(slot), count=1)
        member, tile = _place(index, problem)
        kv = (member // heads) * (heads // group) + (member % heads) // group
        for chunk in range(0, _chunks((tile + 1) * SAMPLES, problem, STRIDE, KEYS)):
            stage = step % STAGES
            mbarrier.wait(k_free.index(stage), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(k_ready.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(
                k_desc, [kv, chunk * KEYS, 0], k_ready.index(stage), k_bufs.index(stage)
            )
            step += 1
        turn += 1
        index = gl.atomic_add(counter_ptr, 1)
    if index == members * tiles + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)  # the last program to end: the next launch starts from 0 again
    slot = turn % 2
    mbarrier.wait(tile_bars.index(2 + slot), ((turn // 2) & 1) ^ 1)
    slots.index(slot).store(gl.full([1], index, gl.int32, layout))
    mbarrier.arrive(tile_bars.index(slot), count=1)


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
def _by_block16(y, KEYS: gl.constexpr, PER: gl.constexpr):
    """As _by_block, exponentials in pairs; PER 16 only."""
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    PARTS: gl.constexpr = _parts_layout(BLOCKS)
    w = gl.inline_asm_elementwise(
        "{ .reg .b32 t; cvt.rn.f16x2.f32 t, $2, $1; ex2.approx.f16x2 $0, t; }", "=r,f,f", [y], gl.float16, is_pure=True, pack=2
    )
    a, b = gl.split(w.reshape([OWN, BLOCKS, 2, 4, 2]).permute((0, 1, 3, 4, 2)))
    both = gl.inline_asm_elementwise("add.rn.f16x2 $0, $1, $2;", "=r,r,r", [a, b], gl.float16, is_pure=True, pack=2)
    parts = gl.sum(both.to(gl.float32), 3)
    return gl.sum(gl.convert_layout(parts, PARTS), 2)


@gluon.jit
def _scratch_row(sample, PER: gl.constexpr):
    """Row of a sample's sums in scratch: the ``PER`` samples that are added up lie far apart, so that
    one thread reads them all and its neighbours what lies beside them.
    """
    return sample % PER * (64 // PER) + sample // PER


@gluon.jit
def _block_sums(
    logits, peak, norm, factor, last, sums_at, peaks_at,
    KEYS: gl.constexpr, PER: gl.constexpr, MASKED: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr,
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
    if DIAG & 1:
        new_peak = gl.full([OWN], 0.0, gl.float32, peak.type.layout)
    base = new_peak
    if MASKED:
        base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    shift = gl.convert_layout(base, gl.SliceLayout(1, gl.SliceLayout(2, L)))
    y = cells * factor - gl.expand_dims(shift[:, None], 2)
    if POLY == 16:
        sums = _by_block16(y, KEYS, PER)
    else:
        sums = _by_block(_exp2(y, POLY, MASKED), KEYS, PER)
    N: gl.constexpr = norm.type.layout
    quarters = gl.convert_layout(gl.sum(sums.reshape([OWN, 4, BLOCKS // 4]), 2), N)
    decay = gl.convert_layout(gl.exp2(peak - base), gl.SliceLayout(1, N))
    norm = norm * decay[:, None] + quarters
    layout: gl.constexpr = sums.type.layout
    row = _scratch_row(gl.arange(0, OWN, layout=gl.SliceLayout(1, layout)), PER)
    column = gl.arange(0, BLOCKS, layout=gl.SliceLayout(0, layout))
    if HALF == 1:
        sums = (sums * 1024).to(gl.float16)
    elif HALF == 2:
        sums = gl.maximum((sums.to(gl.int32, bitcast=True) - (847249408 - 2048)) >> 12, 0).to(gl.int16)
    gl.store(sums_at + row[:, None] * BLOCKS + column[None, :], sums)
    gl.store(peaks_at + gl.arange(0, OWN, layout=base.type.layout), base)
    return new_peak, norm


@gluon.jit
def _weigh(
    scores, sums_at, peaks_at, peak, share, first_row, chunks, rows, columns,
    KEYS: gl.constexpr, PER: gl.constexpr, SAMPLES: gl.constexpr, MAXIMUM: gl.constexpr, HALF: gl.constexpr,
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
        if HALF == 2:
            code = gl.load(sums_at + at3, mask=live3, other=0).to(gl.int32) & 0xFFFF
            sums = gl.where(code == 0, 0.0, ((code << 12) + 847249408).to(gl.float32, bitcast=True))
        else:
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
def _stamp(trace, step, WHICH: gl.constexpr, WHO: gl.constexpr, DIAG: gl.constexpr):
    if DIAG & 64:
        now = gl.inline_asm_elementwise("mov.u32 $0, %clock;", "=r,r", [step], gl.int32, is_pure=False, pack=1)
        if gl.program_id(0) == 40 and step < 256:
            gl.store(trace + (step * 4 + WHO) * 4 + WHICH, now)


@gluon.jit
def _issue(q, step, k_bufs, k_ready, KEYS: gl.constexpr, DIM: gl.constexpr, STAGES: gl.constexpr, S: gl.constexpr, WHO: gl.constexpr, TURNS: gl.constexpr):
    stage = step % STAGES
    mbarrier.wait(k_ready.index(stage), (step // STAGES) & 1)
    k = k_bufs.index(stage).reshape([KEYS, DIM]).permute((1, 0))
    zeros = gl.zeros([64, KEYS], gl.float32, S)
    if TURNS == 1:
        _turn_begins(step, WHO)
    x = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    if TURNS == 1:
        _turn_ends(step, WHO, 2)
    return x


@gluon.jit
def _load(q, inputs, item, head, start, first, q_len, STRIDE: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr):
    WIDE: gl.constexpr = DIM // 8
    QL: gl.constexpr = gl.BlockedLayout([1, 8], [32 // WIDE, WIDE], [4, 1], [1, 0])
    q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor = inputs
    token = (first + gl.arange(0, 64, layout=gl.SliceLayout(1, QL))) * STRIDE + start
    dims = gl.arange(0, DIM, layout=gl.SliceLayout(0, QL))
    there = (token < q_len)[:, None] & (dims < HEAD_DIM)[None, :]
    at = q_ptr + item * stride_qb + head * stride_qh
    at += token.to(gl.int64)[:, None] * stride_ql + dims[None, :]
    q.store(gl.load(at, mask=there, other=0.0))


@gluon.jit
def _consumer(
    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
    WHO: gl.constexpr, SAMPLES: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    KEYS: gl.constexpr, DIM: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    MAXIMUM: gl.constexpr, TURNS: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr, CONSUMERS: gl.constexpr,
):  # fmt: skip
    OWN: gl.constexpr = 64
    BLOCKS: gl.constexpr = KEYS // PER
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor = inputs
    scores_ptr, scratch_ptr, chunk_room = outputs
    members, heads, group, q_len, shift, strides, rows, columns, tiles = problem
    k_ready, k_free = bars
    q0 = q_bufs.index(2 * WHO)
    q1 = q_bufs.index(2 * WHO + 1)
    scratch = scratch_ptr + gl.program_id(0).to(gl.int64) * chunk_room * SAMPLES * (BLOCKS + 1)
    if HALF == 1:
        sums0 = scratch.to(gl.pointer_type(gl.float16), bitcast=True) + WHO * 2 * OWN * BLOCKS
    else:
        sums0 = scratch + WHO * 2 * OWN * BLOCKS
    sums1 = sums0 + OWN * BLOCKS
    peaks0 = scratch + chunk_room * (SAMPLES * BLOCKS) + WHO * 2 * OWN
    peaks1 = peaks0 + OWN
    step = 0
    turn = 0
    if TURNS == 1 and WHO == 1:
        _turn_ends(step, WHO, 2)
    index = _next_tile(turn, slots, tile_bars)
    while index < members * tiles:
        member, tile = _place(index, problem)
        item = (member // heads).to(gl.int64)
        head = (member % heads).to(gl.int64)
        start = gl.load(starts_ptr + head).to(gl.int32)
        first = tile * SAMPLES + WHO * 2 * OWN
        _load(q0, inputs, item, head, start, first, q_len, STRIDE, DIM, HEAD_DIM)
        _load(q1, inputs, item, head, start, first + OWN, q_len, STRIDE, DIM, HEAD_DIM)
        fence_async_shared()
        _sync()
        token0 = (first + gl.arange(0, OWN, layout=gl.SliceLayout(1, S))) * STRIDE + start
        token1 = token0 + OWN * STRIDE
        last0 = gl.minimum((token0 + shift) // STRIDE, strides - 1)
        last1 = gl.minimum((token1 + shift) // STRIDE, strides - 1)
        tile_chunks = _chunks((tile + 1) * SAMPLES, problem, STRIDE, KEYS)
        chunks = _chunks(first + 2 * OWN, problem, STRIDE, KEYS)
        interior = gl.minimum((first * STRIDE + start + shift) // STRIDE + 1, strides) // KEYS
        interior = gl.minimum(interior, chunks - 1)
        peak0 = gl.full([OWN], float("-inf"), gl.float32, gl.SliceLayout(1, S))
        norm0 = gl.full([OWN, 4], 0.0, gl.float32, gl.SliceLayout(2, _parts_layout(4)))
        peak1 = peak0
        norm1 = norm0
        end = step + chunks
        x0 = _issue(q0, step, k_bufs, k_ready, KEYS, DIM, STAGES, S, WHO, TURNS)
        x0 = warpgroup_mma_wait(0, [x0])
        for chunk in range(0, interior):
            at = chunk * SAMPLES
            x1 = _issue(q1, step, k_bufs, k_ready, KEYS, DIM, STAGES, S, WHO, TURNS)
            peak0, norm0 = _block_sums(
                x0, peak0, norm0, factor, last0, sums0 + at * BLOCKS, peaks0 + at, KEYS, PER, False, POLY, HALF, DIAG,
            )  # fmt: skip
            x1 = warpgroup_mma_wait(0, [x1])
            mbarrier.arrive(k_free.index(step % STAGES), count=1)
            step += 1
            x0 = _issue(q0, step, k_bufs, k_ready, KEYS, DIM, STAGES, S, WHO, TURNS)
            peak1, norm1 = _block_sums(
                x1, peak1, norm1, factor, last1, sums1 + at * BLOCKS, peaks1 + at, KEYS, PER, False, POLY, HALF, DIAG,
            )  # fmt: skip
            x0 = warpgroup_mma_wait(0, [x0])
        for chunk in range(interior, chunks):
            at = chunk * SAMPLES
            x1 = _issue(q1, step, k_bufs, k_ready, KEYS, DIM, STAGES, S, WHO, TURNS)
            peak0, norm0 = _block_sums(
                x0, peak0, norm0, factor, last0 - chunk * KEYS, sums0 + at * BLOCKS, peaks0 + at, KEYS, PER, True, POLY, HALF, DIAG,
            )  # fmt: skip
            x1 = warpgroup_mma_wait(0, [x1])
            # The last chunk again where none follows: its product is thrown away.
            x0 = _issue(q0, gl.minimum(step + 1, end - 1), k_bufs, k_ready, KEYS, DIM, STAGES, S, WHO, TURNS)
            peak1, norm1 = _block_sums(
                x1, peak1, norm1, factor, last1 - chunk * KEYS, sums1 + at * BLOCKS, peaks1 + at, KEYS, PER, True, POLY, HALF, DIAG,
            )  # fmt: skip
            x0 = warpgroup_mma_wait(0, [x0])
            mbarrier.arrive(k_free.index(step % STAGES), count=1)
            step += 1
        for _chunk in range(chunks, tile_chunks):
            mbarrier.wait(k_ready.index(step % STAGES), (step // STAGES) & 1)
            if TURNS == 1:
                _turn_begins(step, WHO)
                _turn_ends(step, WHO, 2)
                _turn_begins(step, WHO)
                _turn_ends(step, WHO, 2)
            mbarrier.arrive(k_free.index(step % STAGES), count=1)
            step += 1
        _sync()
        unit: gl.constexpr = 0.0009765625 if HALF == 1 else 1.0
        share0 = gl.where(token0 < q_len, unit / gl.convert_layout(gl.sum(norm0, 1), peak0.type.layout), 0.0)
        share1 = gl.where(token1 < q_len, unit / gl.convert_layout(gl.sum(norm1, 1), peak1.type.layout), 0.0)
        out = scores_ptr + member.to(gl.int64) * rows * columns
        _weigh(out, sums0, peaks0, peak0, share0, first // PER, chunks, rows, columns, KEYS, PER, SAMPLES, MAXIMUM, HALF)
        _weigh(out, sums1, peaks1, peak1, share1, (first + OWN) // PER, chunks, rows, columns, KEYS, PER, SAMPLES, MAXIMUM, HALF)
        _sync()
        turn += 1
        index = _next_tile(turn, slots, tile_bars)


@gluon.jit
def block_scores_gluon_kernel(
    q_ptr, k_desc, scores_ptr, scratch_ptr, starts_ptr, counter_ptr,
    stride_qb, stride_qh, stride_ql,
    members, heads, group, q_len, shift, strides, rows, columns, tiles, chunk_room, factor,
    HEAD_DIM: gl.constexpr, DIM: gl.constexpr, STRIDE: gl.constexpr, PER: gl.constexpr,
    SAMPLES: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr, MAXIMUM: gl.constexpr,
    TURNS: gl.constexpr, POLY: gl.constexpr, HALF: gl.constexpr, DIAG: gl.constexpr, CONSUMERS: gl.constexpr,
    CONSUMER_REGS: gl.constexpr, PRODUCER_REGS: gl.constexpr,
):  # fmt: skip
    """Any 1-D grid: programs fetch tiles as they get free.

    ``factor`` is ``scale * log2(e)``; ``chunk_room`` chunks fit into a program's scratch. With
    ``MAXIMUM`` a block's score is its largest mass of any sample, else their sum.
    """
    # Shared memory: 64 samples of each consumer, and a ring of STAGES chunks of KEYS pooled keys.
    Q_LAYOUT: gl.constexpr = gl.NVMMASharedLayout(min(128, 2 * DIM), 16, 2)
    q_bufs = gl.allocate_shared_memory(k_desc.dtype, [4, 64, DIM], Q_LAYOUT)
    k_bufs = gl.allocate_shared_memory(k_desc.dtype, [STAGES, 1, KEYS, DIM], k_desc.layout)
    k_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_bars = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    slots = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    for half in gl.static_range(2):
        mbarrier.init(tile_bars.index(half), count=1)
        mbarrier.init(tile_bars.index(2 + half), count=CONSUMERS)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_ready.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=CONSUMERS)
    # The copy engine must see the barriers as they are now.
    fence_async_shared()
    problem = (members, heads, group, q_len, shift, strides, rows, columns, tiles)
    bars = (k_ready, k_free)
    inputs = (q_ptr, starts_ptr, stride_qb, stride_qh, stride_ql, factor)
    outputs = (scores_ptr, scratch_ptr, chunk_room)
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    0, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    1, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_producer, (
                    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
                    SAMPLES, STRIDE, KEYS, STAGES,
                )),
            ],
            [4, 1],
            [CONSUMER_REGS, PRODUCER_REGS],
        )
    else:
        gl.warp_specialize(
            [
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    0, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    1, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    2, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_consumer, (
                    inputs, outputs, problem, q_bufs, k_bufs, bars, slots, tile_bars,
                    3, SAMPLES, STRIDE, PER, KEYS, DIM, HEAD_DIM, STAGES, MAXIMUM, TURNS, POLY, HALF, DIAG, CONSUMERS,
                )),
                (_producer, (
                    k_desc, problem, k_bufs, bars, slots, tile_bars, counter_ptr,
                    SAMPLES, STRIDE, KEYS, STAGES,
                )),
            ],
            [4, 4, 4, 1],
            [CONSUMER_REGS, CONSUMER_REGS, CONSUMER_REGS, PRODUCER_REGS],
        )


DEFAULTS = {"TURNS": 0, "POLY": 0, "HALF": 0, "DIAG": 0, "CONSUMERS": 2}
EOF_PART
cat > $D/launch.py <<'EOF_PART'
"""The estimate by a variant of the Hopper kernel; VARIANTS names them."""
import importlib.util, os, sys
import torch
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from method.blocks import BLOCK
from method.ops.rr_scores import hopper
from method.ops.rr_scores.key_sums import pool_keys_triton
from method.ops.rr_scores.problem import Estimate
from method.ops.rr_scores.torch import sample_starts
from method.ops.triton_support import padded_head, unit_stride

HERE = os.path.dirname(os.path.abspath(__file__))
def load(name):
    spec = importlib.util.spec_from_file_location("estimate_" + name, os.path.join(HERE, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimate_" + name] = module
    spec.loader.exec_module(module)
    return module


one, two = load("kernel"), load("kernel2")


class Ready:
    """As method.ops.launch.Ready once was."""
    def __init__(self, kernel, grid, numbers, constants, descriptors):
        self.kernel, self.grid, self.numbers, self.constants, self.descriptors = kernel, (*grid, 1, 1)[:3], numbers, constants, descriptors
        self.launch = None
    def __call__(self, *tensors):
        args = list(tensors)
        for place, d in self.descriptors.items():
            d.base = args[place].flatten(0, 1) if args[place].dim() == 4 else args[place]
            args[place] = d
        if self.launch is not None:
            self.launch(*args, *self.rest)
            return
        compiled = self.kernel[self.grid](*args, *self.numbers, **self.constants)
        names = self.kernel.arg_names
        self.rest = (*self.numbers, *[self.constants[one] for one in names if one in self.constants])
        assert len(args) + len(self.rest) == len(names)
        self.launch = compiled[self.grid]


VARIANTS = {
    "base": {},
    "half": {"HALF": 1},
    "pair": {"PAIR": 1},
    "pair half": {"PAIR": 1, "HALF": 1},
    "pair half turns": {"PAIR": 1, "HALF": 1, "TURNS": 1},
    "pair half cubic 1/8": {"PAIR": 1, "HALF": 1, "POLY": 813},
    "pair half cubic 1/4": {"PAIR": 1, "HALF": 1, "POLY": 413},
    "pair half turns cubic 1/8": {"PAIR": 1, "HALF": 1, "TURNS": 1, "POLY": 813},
    "diag pair half, no maxima": {"PAIR": 1, "HALF": 1, "DIAG": 1},
    "diag pair half, no weighing": {"PAIR": 1, "HALF": 1, "DIAG": 2},
}


def prepare(query, key, *, scale, stride, maximum=False, flags):
    """(pool, fill): fill(query, pooled, scores)."""
    (batch, heads, q_len, dim), k_len = query.shape, key.shape[2]
    device = query.device
    pooled_shape = batch, key.shape[1], -(-k_len // stride), dim
    starts = sample_starts(heads, stride, k_len - q_len, "head", device, 0)
    estimate = Estimate(tuple(query.shape), unit_stride(query).stride(), pooled_shape, starts, k_len, stride, scale, query.dtype)
    padded = padded_head(dim)
    flags = dict(flags)
    pair = flags.pop("PAIR", 0)
    kernels = two if pair else one
    flags = kernels.DEFAULTS | flags
    samples = flags.pop("SAMPLES", 256)
    stages = flags.pop("STAGES", 4)
    regs = flags.pop("REGS", (240, 24) if pair else (112, 24))
    keys = flags.pop("KEYS", 128)
    pooled = torch.empty(pooled_shape, dtype=query.dtype, device=device).flatten(0, 1)
    desc = TensorDescriptor(pooled, list(pooled.shape), list(pooled.stride()), [1, keys, padded], hopper.keys_layout(padded))
    units = torch.cuda.get_device_properties(device).multi_processor_count * flags.pop("PROGRAMS", 1)
    sizes = estimate.sizes(samples)
    programs = min(sizes[0] * sizes[-1], units)
    size, room = estimate.scratch(programs, samples, keys)
    launch = Ready(
        kernels.block_scores_gluon_kernel, (programs,),
        (*estimate.query_strides[:3], *sizes, room, estimate.factor),
        {"HEAD_DIM": dim, "DIM": padded, "STRIDE": stride, "PER": BLOCK // stride, "SAMPLES": samples, "KEYS": keys,
         "STAGES": stages, "MAXIMUM": maximum, **flags, "CONSUMER_REGS": regs[0], "PRODUCER_REGS": regs[1], "num_warps": 4},
        {1: desc},
    )
    counter = torch.zeros(1, dtype=torch.int32, device=device)
    size *= flags.get("BUFFERS", 1)

    def fill(query, pooled, scores):
        scratch = torch.empty(size + 4096 * 16, dtype=torch.float32, device=device)
        launch(query, pooled, scores, scratch, starts, counter)
        return scratch

    return fill, estimate.scores_shape


def scores_of(query, key, **options):
    fill, shape = prepare(query, key, **options)
    scores = torch.full(shape, float("nan"), device=query.device)
    fill(unit_stride(query), pool_keys_triton(key, options["stride"]), scores)
    return scores
EOF_PART
$PY $D/variants.py $D || exit 1
TESTS=$PYTHONPATH; export PYTHONPATH=$D:$PYTHONPATH
# 1. right or wrong, all at once; what is timed later is compiled here
( PYTHONPATH=$TESTS timeout 110 $PY -m pytest -q -m gpu -n 6 -p no:cacheprovider tests/gpu/test_launches.py tests/gpu/test_estimate_hopper.py tests/gpu/test_estimates.py tests/gpu/test_sparse_hopper.py > $OUT/short_tests.txt 2>&1 ) & TESTING=$!
( for n in new nopdl; do for i in 1 2; do echo $n $i; done; done ) | timeout 100 xargs -P 4 -L1 timeout 98 $PY $D/stress.py > $OUT/short_stress_warm.txt 2>&1 & WARM=$!
printf 'base\nhalf\npair\npair half\npair half turns\npair half cubic 1/8\ndiag pair half, no maxima\n' | timeout 100 xargs -d '\n' -P 8 -I{} timeout 98 $PY $D/pair.py {} > $OUT/short_pair_check.txt 2>&1 & PAIRS=$!
( printf 'new:0\nnew:1\nnew:2\n'; grep -v '^new$\|^trace$' $D/names ) | timeout 105 xargs -P 16 -I{} timeout 100 $PY $D/check.py {} > $OUT/short_check.txt 2>&1
wait $PAIRS; wait $WARM; wait $TESTING
sort -o $OUT/short_check.txt $OUT/short_check.txt
grep -c '| ok |' $OUT/short_check.txt; grep -v '| ok |' $OUT/short_check.txt | head -40; grep -v '| ok |' $OUT/short_pair_check.txt | head; tail -5 $OUT/short_tests.txt
date
timeout 40 $PY $D/stress.py > $OUT/short_stress.txt 2>&1; tail -3 $OUT/short_stress.txt
# 2. times of what is right
BAD=$(while read -r n; do { grep -q "^$n:.* | good" $OUT/short_check.txt && ! grep -q "^$n:.* | FAILED" $OUT/short_check.txt; } || echo $n; done < <(grep -v '^trace$' $D/names)); echo "left out:" $BAD
date
timeout 75 $PY $D/timing.py $D/names $BAD > $OUT/short_times.txt 2>&1; cat $OUT/short_times.txt | cut -c1-200
timeout 30 $PY $D/trace.py > $OUT/short_trace.txt 2>&1; cat $OUT/short_trace.txt | tail -14
timeout 30 $PY $D/pair.py > $OUT/short_pair.txt 2>&1; cat $OUT/short_pair.txt | tail -20
date
