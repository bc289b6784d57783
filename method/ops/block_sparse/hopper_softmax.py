"""The softmax of the Hopper kernel, in which no thread waits for another unless a maximum grows.

A tensor core leaves four threads with a quarter of each row: pairs of neighbours, 8 columns apart.
Cells are logits as [64 queries, 4, ROW / 32, 4 threads, 2]. What belongs to a row is kept by each of
its four threads, as [64, 4]: maxima alike, sums as parts that are added up at the end.

What a row subtracts is its maximum, or an older one that is at most 8 powers of two smaller
(FlashAttention-4 rescales as rarely): weights stay below 2 ** 8, and nothing has to be exchanged or
rescaled for most blocks.
"""

# Kernel arguments are device values, which Python's types do not describe.
# mypy: disallow-untyped-defs=False
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.constexpr_function
def _grown() -> str:
    """Assembly for the maxima of a thread's two rows: new ones if any of the warp's has grown by 8.

    Arguments are the thread's own maxima of a block and the rows' old ones, which the four threads of a
    row hold alike. Only if they change are they exchanged.
    """
    lines = [
        "{", ".reg .pred mine, any;", ".reg .f32 limit, other;",
        "mov.f32 $0, $4;", "mov.f32 $1, $5;",
        "add.f32 limit, $4, 0f41000000;", "setp.gt.f32 mine, $2, limit;",
        "add.f32 limit, $5, 0f41000000;", "setp.gt.or.f32 mine, $3, limit, mine;",
        "vote.sync.any.pred any, mine, 0xffffffff;", "@!any bra KEPT;",
    ]  # fmt: skip
    for row in range(2):
        lines.append(f"max.f32 ${row}, ${row + 2}, ${row + 4};")
        for lane in (1, 2):
            lines.append(f"shfl.sync.bfly.b32 other, ${row}, {lane}, 0x1f, 0xffffffff;")
            lines.append(f"max.f32 ${row}, ${row}, other;")
    return "\n".join([*lines, "KEPT:", "}"])


@gluon.constexpr_function
def _scaled(count: int) -> str:
    """Assembly that multiplies a thread's ``count`` values, unless all factors of its warp are 1.

    Values are pairs of neighbours of its two rows in turns, so factors 0 and 2 are those of its rows.
    """
    factors = range(2 * count, 3 * count)
    lines = [
        "{", ".reg .pred mine, any;", f"setp.ne.f32 mine, ${factors[0]}, 0f3F800000;",
        f"setp.ne.or.f32 mine, ${factors[2]}, 0f3F800000, mine;",
        "vote.sync.any.pred any, mine, 0xffffffff;", "@!any bra KEPT;",
    ]  # fmt: skip
    lines += [f"mul.f32 ${at}, ${at}, ${factors[at]};" for at in range(count)]
    return "\n".join([*lines, "KEPT:", "}"])


@gluon.constexpr_function
def _in_place(count: int) -> str:
    """Constraints of :func:`_scaled`: values are changed where they are."""
    return ",".join(["=f"] * count + [str(at) for at in range(count)] + ["f"] * count)


@gluon.jit
def maxima(
    logits, peak, factor, query_at, key_at, k_len,
    MASKED: gl.constexpr,
):  # fmt: skip
    """A block's cells, the rows' new maxima, what to subtract, and ``shrink`` for the past."""
    if MASKED:
        seen = (key_at[None, :] <= query_at[:, None]) & (key_at < k_len)[None, :]
        logits = gl.where(seen, logits, float("-inf"))
    rows: gl.constexpr = logits.shape[0]
    keys: gl.constexpr = logits.shape[1]
    cells = logits.reshape([rows, 4, keys // 32, 4, 2])
    top = gl.max(gl.max(gl.max(cells, 1), 3), 1)
    top = gl.convert_layout(top, peak.type.layout, assert_trivial=True)
    new_peak = gl.inline_asm_elementwise(
        _grown(), "=&f,=&f,f,f,f,f", [top * factor, peak], gl.float32, is_pure=False, pack=2
    )
    base = new_peak
    if MASKED:
        # A query that has seen no key yet: subtract 0, so that its weights are exp2(-inf) = 0.
        base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    return cells, new_peak, base, gl.exp2(peak - base)


@gluon.jit
def exponentials(cells, base, factor):
    """Weights, as cells, and their sums over what each thread holds of a row."""
    C: gl.constexpr = cells.type.layout
    ROWS: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, gl.SliceLayout(4, C)))
    subtract = gl.convert_layout(base, ROWS, assert_trivial=True)
    subtract = gl.expand_dims(gl.expand_dims(gl.expand_dims(subtract, 1), 2), 4)
    weights = gl.exp2(cells * factor - subtract)
    parts = gl.sum(gl.sum(gl.sum(weights, 4), 2), 1)
    return weights, gl.convert_layout(parts, base.type.layout, assert_trivial=True)


@gluon.jit
def no_maxima(logits):
    """Something of the shape and layout that everything by row has; its values mean nothing."""
    cells = logits.reshape([logits.shape[0], 4, logits.shape[1] // 32, 4, 2])
    return gl.sum(gl.sum(gl.sum(cells, 4), 2), 1)


@gluon.jit
def rescaled(acc, shrink, DIM: gl.constexpr):
    """acc, [64, DIM], times ``shrink``, unless that is 1 for all rows of a warp, as it mostly is."""
    cells = acc.reshape([acc.shape[0], DIM // 8, 4, 2])
    C: gl.constexpr = cells.type.layout
    shrink = gl.convert_layout(shrink, gl.SliceLayout(1, gl.SliceLayout(3, C)), assert_trivial=True)
    shrink = gl.expand_dims(gl.expand_dims(shrink, 1), 3) + gl.zeros_like(cells)
    HELD: gl.constexpr = DIM // 2
    cells = gl.inline_asm_elementwise(
        _scaled(HELD), _in_place(HELD), [cells, shrink], gl.float32, is_pure=False, pack=HELD
    )
    return gl.convert_layout(cells.reshape([acc.shape[0], DIM]), acc.type.layout, assert_trivial=True)
