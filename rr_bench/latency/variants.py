"""Kernel variants to tune: names, and how each is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

from method.blocks import BlockMask
from method.keep import RR_KEEP
from method.ops.block_sparse.hopper import HopperLaunch, block_sparse_hopper
from method.ops.block_sparse.triton import block_sparse_triton
from method.ops.rr_scores.triton import block_scores_triton
from method.ops.top_p.triton import select_blocks_triton
from method.ops.triton_support import Launch
from rr_bench.latency.baselines import Attend, dense, flex

Select = Callable[[Tensor, Tensor, float, int], BlockMask]


def triton_kernel(launch: Launch | None) -> Attend:
    """The portable kernel with given settings."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        return block_sparse_triton(query, key, value, mask, scale=scale, launch=launch)[0]

    return attend


def hopper_kernel(launch: HopperLaunch) -> Attend:
    """The Hopper kernel with given settings."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
        return block_sparse_hopper(query, key, value, mask, scale=scale, launch=launch)[0]

    return attend


def attention_variants() -> dict[str, Attend]:
    """All attention variants, the most promising first."""
    variants = {"dense:cudnn": dense("cudnn"), "dense:fa2": dense("fa2"), "triton": triton_kernel(None)}
    for stages, pingpong, grouped in itertools.product((2, 3), (True, False), (False, True)):
        name = f"hopper:{'turns' if pingpong else 'free'},s{stages}{',group' if grouped else ''}"
        variants[name] = hopper_kernel(HopperLaunch(stages, pingpong, grouped))
    for n, warps, stages in ((128, 8, 2), (64, 8, 3), (64, 8, 4), (128, 8, 3)):
        variants[f"tma:n{n},w{warps},s{stages}"] = triton_kernel(Launch(n, warps, stages, tma=True))
    for n, warps, stages in ((128, 8, 2), (64, 8, 4), (64, 4, 3)):
        variants[f"pointer:n{n},w{warps},s{stages}"] = triton_kernel(Launch(n, warps, stages))
    variants["flex"] = flex()
    return variants


def rr_selection(hopper: bool | None, launch: Launch | None = None) -> Select:
    """RRAttention's estimate by the kernel that is named, then Top-τ."""

    def select(query: Tensor, key: Tensor, scale: float, stride: int) -> BlockMask:
        scores = block_scores_triton(
            query, key, scale=scale, stride=stride, hopper=hopper, launch=launch
        )
        length = query.shape[2]
        return select_blocks_triton(scores, length, length, tau=0.9, selector="released", keep=RR_KEEP)

    return select


def selection_variants() -> dict[str, Select]:
    """All selection variants; the first is what the others are compared with."""
    variants = {"portable": rr_selection(False), "auto": rr_selection(None)}
    for n, warps, stages, registers in (
        (64, 8, 3, 128),
        (128, 8, 3, None),
        (128, 8, 2, 128),
        (64, 4, 2, None),
        (256, 8, 2, None),
    ):
        launch = Launch(n, warps, stages, max_registers=registers)
        name = f"portable:n{n},w{warps},s{stages}" + (f",r{registers}" if registers else "")
        variants[name] = rr_selection(False, launch)
    return variants
