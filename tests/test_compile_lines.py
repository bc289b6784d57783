"""The kernels of the rival methods compile to machine code, without a GPU."""

from __future__ import annotations

import pytest
import torch

from method.blocks import BLOCK
from method.ops import lists as lists_triton
from method.ops.antidiagonal import triton as antidiagonal_triton
from method.ops.antidiagonal.torch import ALMOST_BEST
from method.ops.pooled import triton as pooled_triton
from method.ops.top_p import prefix as prefix_triton
from method.ops.triton_support import padded_head
from method.ops.vertical_slash import cover as line_cover_triton
from method.ops.vertical_slash import lists as lines_triton
from method.ops.vertical_slash import profile_triton as profile_triton
from method.ops.vertical_slash import triton as line_attention_triton
from tests.conftest import INTERPRETING
from tests.products import few_of
from tests.test_compile import NAMES, SHAPES, SHARED, build, own_cache, shapes

__all__ = ["own_cache"]
pytestmark = pytest.mark.skipif(INTERPRETING, reason="needs real Triton (no TRITON_INTERPRET=1)")


@few_of({"chip": list(SHARED), "size": [131072, 1 << 20, 1 << 24], "flagged": [False, True]})
def test_prefix_kernels_compile(chip, size, flagged):
    sizes = prefix_triton.sizes_of(size)
    warps = sizes.pop("num_warps")
    pointers = {"values_ptr": "fp32", "flag_ptr": "u8", "keep_ptr": "i8"}
    pointers |= dict.fromkeys(("low_ptr", "next_low_ptr", "level_ptr", "equal_ptr"), "i32")
    pointers |= dict.fromkeys(("limit_ptr", "sums_ptr", "next_sums_ptr", "totals_ptr"), "fp64")
    constants = {"FLAGGED": flagged, **sizes}
    build(prefix_triton.prefix_keep_kernel, chip, pointers, constants, num_warps=warps)
    constants["COUNT"] = not flagged
    build(prefix_triton.prefix_level_kernel, chip, pointers, constants, num_warps=warps)
    for first in (False, True):
        constants["FIRST"] = first
        build(prefix_triton.prefix_pass_kernel, chip, pointers, constants, num_warps=warps)


@few_of({"chip": list(SHARED), "width": [16, 1024, 4096], "others": [False, True]})
def test_line_list_kernel_compiles(chip, width, others):
    pointers = dict.fromkeys(("columns_ptr", "diagonals_ptr", "others_ptr", "flag_ptr"), "u8")
    pointers |= {"newest_ptr": "i64", "index_ptr": "i32", "count_ptr": "i32"}
    constants = {"W": width, "ROW": BLOCK, "OTHERS": others}
    constants |= dict.fromkeys(("SINK", "DIAGONAL", "LAST_ROW"), others)
    warps = lists_triton.list_warps(width)
    build(lines_triton.line_lists_kernel, chip, pointers, constants, num_warps=warps)


@shapes
def test_pooled_kernels_compile(chip, dtype, dim):
    sizes = {"HEAD_DIM": dim, "PADDED": padded_head(dim)}
    pointers = {"in_ptr": NAMES[dtype], "flag_ptr": "u8", "out_ptr": "fp32"}
    constants = {**sizes, "SIZE": BLOCK, "FLAGGED": True}
    build(pooled_triton.mean_tiles_kernel, chip, pointers, constants)
    if dtype == torch.float32 or dim != 128:
        return
    pointers = {"rows_ptr": "fp32", "columns_ptr": "fp32", "flag_ptr": "u8", "out_ptr": "fp32"}
    constants = {**sizes, "ROWS": pooled_triton.ROWS, "COLUMNS": pooled_triton.COLUMNS}
    build(
        pooled_triton.pooled_weights_kernel, chip, pointers, {**constants, "BLOCK": BLOCK}, num_stages=1
    )


def antidiagonal(chip: int, dtype: torch.dtype, dim: int, stride: int, tma: bool):
    launch = antidiagonal_triton.launch_antidiagonal(chip, dtype)
    width = antidiagonal_triton.inner_step(dim, dtype)
    constants = {"HEAD_DIM": dim, "STRIDE": stride, "PER": BLOCK // stride, "BLOCK_K": width}
    constants |= {"BLOCK_M": antidiagonal_triton.QUERY_STRIDES, "BLOCK_N": launch.block_n}
    constants |= {"PRECISION": "ieee" if dtype == torch.float32 else "tf32", "TMA": tma, "FAST": True}
    constants["LARGEST"] = stride == 16
    whole = f"tensordesc<{NAMES[dtype]}[1, 1, {launch.block_n}, 1, {width}]>"
    pointers = {"q_ptr": NAMES[dtype], "keys_ptr": whole if tma else NAMES[dtype]}
    pointers |= {"tiles_ptr": "i32", "lse_ptr": "fp32"}
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return build(antidiagonal_triton.block_lse_kernel, chip, pointers, constants, **options)


@few_of({"chip,dtype,dim": SHAPES, "stride": [1, 8, 16]})
def test_antidiagonal_kernels_compile(chip, dtype, dim, stride):
    compiled = antidiagonal(chip, dtype, dim, stride, False)
    if chip == 90 and dtype == torch.bfloat16:
        assert "wgmma" in compiled.asm["ptx"]
    if chip == 90 and dim == 128:
        constants = {"PER": BLOCK // stride, "CHUNK": max(32, 2048 * stride // BLOCK)}
        constants |= {"MAXIMUM": stride == 1}
        pointers = {"lse_ptr": "fp32", "scores_ptr": "fp32"}
        build(antidiagonal_triton.block_mass_kernel, chip, pointers, constants)
    if chip == 90 and dim == 128 and stride == 8:
        constants = {"PER": 16, "CHUNK": 128, "ALMOST": ALMOST_BEST}
        pointers = {"peaks_ptr": "fp32", "mass_ptr": "fp32", "best_ptr": "i1"}
        build(antidiagonal_triton.block_offers_kernel, chip, pointers, constants)


@few_of({"dim": [64, 96, 128], "stride": [1, 8, 16]})
def test_antidiagonal_kernel_compiles_with_tensor_descriptors(stride, dim):
    ptx = antidiagonal(90, torch.bfloat16, dim, stride, True).asm["ptx"]
    assert "cp.async.bulk.tensor.5d" in ptx and "wgmma" in ptx


@pytest.mark.parametrize("chip", SHARED)
def test_profile_kernel_compiles_with_fewer_registers(chip):
    constants = {"HEAD_DIM": 128, "PADDED": 128, "LAST": 128, "PRECISION": "tf32"}
    pointers = {"q_ptr": "bf16", "k_ptr": "bf16"}
    pointers |= dict.fromkeys(("lse_ptr", "columns_ptr", "diagonals_ptr"), "fp32")
    options = profile_triton.launch_options(torch.bfloat16)
    registers = profile_triton.SUMS_REGISTERS
    kernel = profile_triton.profile_sums_kernel
    compiled = build(kernel, chip, pointers, constants, maxnreg=registers, **options)
    assert f".maxnreg {registers}" in compiled.asm["ptx"]


@few_of({"chip": list(SHARED), "columns": [True, False]})
def test_cover_kernels_compile(chip, columns):
    flags = dict.fromkeys(("columns_ptr", "slashes_ptr"), "u8")
    sizes = {"TILE": 64, "ROW": BLOCK, "COLUMNS": columns, "CHUNK": 1024}
    sizes |= dict.fromkeys(("SINK", "DIAGONAL", "LAST_ROW"), columns)
    build(line_cover_triton.single_keys_kernel, chip, flags, sizes)
    if columns:
        build(line_cover_triton.line_index_kernel, chip, flags, {"CHUNK": 1024})
        sizes = {"TILE": 64, "LANES": line_cover_triton.LANES}
        build(line_cover_triton.walk_kernel, chip, {}, sizes, num_warps=1)


@shapes
def test_line_attention_kernel_compiles(chip, dtype, dim):
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "TILE": 64, "PER_ROW": 2}
    constants |= {"PRECISION": "ieee" if dtype == torch.float32 else "tf32"}
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), NAMES[dtype])
    pointers |= {"member_ptr": "i64"}
    options = line_attention_triton.launch_options(chip, dtype)
    kernel = line_attention_triton.line_attention_kernel
    compiled = build(kernel, chip, pointers, constants, **options)
    if chip == 90 and dtype == torch.bfloat16:
        assert "wgmma" in compiled.asm["ptx"] and "cp.async" in compiled.asm["ptx"]
