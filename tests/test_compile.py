"""Every kernel compiles to machine code for the chips it is meant for, without a GPU."""

from __future__ import annotations

import re
from ctypes import sizeof
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource, GluonJITFunction

from method.blocks import BLOCK
from method.ops import direct
from method.ops import lists as lists_triton
from method.ops.block_energy import triton as energy_triton
from method.ops.block_sparse import triton as sparse_triton
from method.ops.block_sparse.hopper import HopperLaunch, shared_layout
from method.ops.block_sparse.hopper_kernel import sparse_gluon_kernel
from method.ops.direct import DESCRIPTOR_BYTES, direct_kernel
from method.ops.rr_scores import exact as exact_triton
from method.ops.rr_scores import hopper as estimate_hopper
from method.ops.rr_scores import key_sums as pool_triton
from method.ops.rr_scores import triton as estimate_triton
from method.ops.rr_scores.hopper_kernel import block_scores_gluon_kernel
from method.ops.static_decode import triton as decode_triton
from method.ops.top_p import triton as select_triton
from method.ops.triton_support import launch_for, padded_head
from method.ops.vertical_slash import profile_triton as profile_triton
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.skipif(INTERPRETING, reason="needs real Triton (no TRITON_INTERPRET=1)")

# Shared memory one block may take, by compute capability.
SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
WAITS = "griddepcontrol.wait"
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
# Of what every chip, dtype and head size has, the first ones are always compiled.
SHAPES = [
    (90, torch.bfloat16, 128),
    (80, torch.bfloat16, 64),
    (100, torch.bfloat16, 128),
    (90, torch.bfloat16, 96),
    (90, torch.float32, 128),
    (90, torch.bfloat16, 64),
    (80, torch.bfloat16, 128),
    (100, torch.bfloat16, 64),
]
SHAPES = [
    pytest.param(
        *(chip, dtype, dim),
        id=f"sm{chip}-{NAMES[dtype]}-{dim}",
        marks=[pytest.mark.exhaustive] if place >= 5 else [],
    )
    for place, (chip, dtype, dim) in enumerate(SHAPES)
]
shapes = pytest.mark.parametrize(("chip", "dtype", "dim"), SHAPES)


def build(kernel, chip: int, pointers: dict[str, str], constants: dict, **options):
    """Compile as a launch with 16-byte aligned pointers and strides would.

    ``pointers`` gives the element types; a name that holds a whole type, such as a tensor
    descriptor's, is taken as it is.
    """
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("factor", "total"):
            signature[name] = "fp32"
        else:
            named = pointers.get(name, "i32")
            whole = not name.endswith("_ptr") or "[" in named
            signature[name] = named if whole else f"*{named}"
            if not whole or name.startswith("stride_"):
                attributes[(position,)] = [["tt.divisibility", 16]]
    kind = GluonASTSource if isinstance(kernel, GluonJITFunction) else ASTSource
    source = kind(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    assert len(compiled.asm["cubin"]) > 0
    assert compiled.metadata.shared <= SHARED[chip]
    assert given_directly(compiled) == wanted(compiled)
    return compiled


def wanted(compiled) -> list[int]:
    """Bytes of every parameter of the machine code."""
    entry = compiled.asm["ptx"].split(".entry", 1)[1].split("{", 1)[0]
    kinds = re.findall(r"\.param(?: \.align \d+)? \.([a-z])(\d+)[^,)]*?(?:\[(\d+)\])?[,\n]", entry)
    return [int(bits) // 8 * int(many or 1) for _, bits, many in kinds]


def given_directly(compiled) -> list[int]:
    """Bytes of every argument of a direct launch, which takes tensors first, then numbers."""
    types = list(compiled.src.signature.values())
    descriptors = {}
    for place, kind in enumerate(types):
        if kind.startswith("tensordesc"):
            sizes = [1] * (kind.split("]")[0].count(",") + 1)
            descriptors[place] = SimpleNamespace(shape=sizes, strides=sizes)
    made = SimpleNamespace(metadata=compiled.metadata, src=compiled.src, function=1)
    kernel = direct_kernel(made, (1, 1, 1), [0] * len(types), descriptors)
    assert kernel is not None
    return [
        8 if isinstance(one, int) else DESCRIPTOR_BYTES if isinstance(one, tuple) else sizeof(one)
        for one in kernel.arguments
    ]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Compile for real, and leave nothing behind; no driver is needed to see what it would be given."""
    monkeypatch.setattr(direct, "_driver", object)
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


def settings(kernel: str, chip: int, dtype: torch.dtype, dim: int) -> tuple[dict, dict]:
    launch = launch_for(kernel, chip, dim, dtype)
    constants = {
        "HEAD_DIM": dim,
        "PADDED": padded_head(dim),
        "BLOCK_N": launch.block_n,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }
    return constants, {"num_warps": launch.num_warps, "num_stages": launch.num_stages}


@shapes
def test_attention_kernel_compiles(chip, dtype, dim):
    constants, options = settings("sparse", chip, dtype, dim)
    constants |= {"ROW": BLOCK, "WITH_LSE": dim == 64, "TMA": False}
    pointers = dict.fromkeys(("q_ptr", "keys_ptr", "values_ptr", "out_ptr"), NAMES[dtype])
    pointers |= {"lse_ptr": "fp32", "index_ptr": "i32", "count_ptr": "i32"}
    compiled = build(sparse_triton.sparse_attention_kernel, chip, pointers, constants, **options)
    if chip == 90 and dtype == torch.bfloat16:
        assert "wgmma" in compiled.asm["ptx"]


@shapes
def test_decode_kernel_compiles(chip, dtype, dim):
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "ROWS": 16, "SPAN": decode_triton.CHUNK}
    constants |= {"BLOCK_N": decode_triton.tile(dtype)}
    constants |= {"PRECISION": "ieee" if dtype == torch.float32 else "tf32"}
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), NAMES[dtype])
    pointers |= {"length_ptr": "i64", "out_ptr": "fp32", "lse_ptr": "fp32"}
    kernel = decode_triton.static_decode_kernel
    compiled = build(kernel, chip, pointers, constants, num_warps=4, num_stages=2)
    assert compiled.metadata.shared < 99 * 1024  # what every chip has
    constants = {name: constants[name] for name in ("HEAD_DIM", "PADDED", "SPAN")}
    constants |= {"MERGED": decode_triton.MERGED}
    pointers = {"part_ptr": "fp32", "lse_ptr": "fp32", "length_ptr": "i64", "out_ptr": NAMES[dtype]}
    build(decode_triton.merge_kernel, chip, pointers, constants, num_warps=4)


@pytest.mark.parametrize("dim", [64, 96, 128])
def test_attention_kernel_compiles_with_tensor_descriptors(dim):
    padded = padded_head(dim)
    constants = {"HEAD_DIM": dim, "PADDED": padded, "ROW": BLOCK, "BLOCK_N": 128}
    constants |= {"WITH_LSE": False, "PRECISION": "tf32", "TMA": True}
    pointers = {"q_ptr": "bf16", "out_ptr": "bf16", "lse_ptr": "bf16"}
    pointers |= {"index_ptr": "i32", "count_ptr": "i32"}
    pointers |= dict.fromkeys(("keys_ptr", "values_ptr"), f"tensordesc<bf16[1, 1, 128, {padded}]>")
    kernel = sparse_triton.sparse_attention_kernel
    compiled = build(kernel, 90, pointers, constants, num_warps=8, num_stages=2)
    assert "cp.async.bulk.tensor" in compiled.asm["ptx"]


@pytest.mark.parametrize(
    ("dim", "dtype", "stages", "aligned", "with_lse"),
    [(128, "bf16", 2, True, False), (128, "fp16", 2, False, True), (96, "bf16", 2, True, True),
     (64, "bf16", 4, False, False)],
)  # fmt: skip
def test_hopper_kernel_compiles(dim, dtype, stages, aligned, with_lse):
    launch = HopperLaunch(stages=stages)
    padded = padded_head(dim)
    constants = {"HEAD_DIM": dim, "DIM": padded, "ROW": BLOCK, "STAGES": stages, "ALIGNED": aligned}
    constants |= {"WITH_LSE": with_lse, "OVERLAP": True}
    constants |= dict(zip(("CONSUMER_REGS", "PRODUCER_REGS"), launch.registers, strict=True))
    tile = f"{padded}],{shared_layout(padded)!r}>"
    pointers = {"q_desc": f"tensordesc<{dtype}[1, 1, 64, {tile}"}
    pointers |= dict.fromkeys(("k_desc", "v_desc"), f"tensordesc<{dtype}[1, 1, 128, {tile}")
    pointers |= {"out_ptr": dtype, "lse_ptr": "fp32" if with_lse else dtype}
    pointers |= {"index_ptr": "i32", "count_ptr": "i32", "counter_ptr": "i32"}
    options = {"num_warps": launch.warps, "launch_pdl": True}
    compiled = build(sparse_gluon_kernel, 90, pointers, constants, **options)
    for needed in ("wgmma.mma_async", "cp.async.bulk.tensor.4d", "setmaxnreg", WAITS):
        assert needed in compiled.asm["ptx"]


@few_of({"chip,dtype,dim": SHAPES, "stride": [4, 8, 64]})
def test_estimate_kernels_compile(chip, dtype, dim, stride):
    constants, options = settings("estimate", chip, dtype, dim)
    constants |= {"BLOCK_M": estimate_triton.SAMPLES, "STRIDE": stride, "PER": BLOCK // stride}
    pointers = {"q_ptr": NAMES[dtype], "pooled_ptr": NAMES[dtype], "starts_ptr": "i64"}
    pointers |= {"scratch_ptr": "fp32", "scores_ptr": "fp32"}
    constants["MAXIMUM"] = stride == 8
    build(estimate_triton.block_scores_kernel, chip, pointers, constants, **options)
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "STRIDE": stride}
    constants |= {"TILE": pool_triton.POOL_STRIDES, "OVERLAP": chip >= 90}
    pointers = {"k_ptr": NAMES[dtype], "out_ptr": NAMES[dtype]}
    build(pool_triton.pool_keys_kernel, chip, pointers, constants)


@pytest.mark.parametrize(("chip", "dim"), [(80, 128), (90, 96), (90, 128)])
def test_exact_kernels_compile(chip, dim):
    tile, launch = exact_triton.launch_exact(chip, torch.bfloat16)
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "STRIDE": 16, "TILE": tile}
    constants |= {"PIECE": exact_triton.PIECE, "BLOCK": BLOCK, "GROUP": 16 if dim == 128 else 1}
    tma = dim == 96
    constants |= {"PRECISION": "tf32", "TMA": tma}
    pointers = {"q_ptr": "bf16", "starts_ptr": "i64", "lse_ptr": "fp32"}
    pointers["keys_ptr"] = "tensordesc<bf16[1, 1, 128, 128]>" if tma else "bf16"
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    if launch.max_registers:
        options["maxnreg"] = launch.max_registers
    compiled = build(exact_triton.sample_lse_kernel, chip, pointers, constants, **options)
    if chip == 90:
        assert "wgmma" in compiled.asm["ptx"]
        assert 2 * compiled.metadata.shared <= SHARED[chip]  # two programs on a multiprocessor
    if dim == 96:
        constants = {"STRIDE": 16, "PER": 8, "CHUNK": 256, "BLOCK": BLOCK, "MAXIMUM": True}
        pointers = {"lse_ptr": "fp32", "starts_ptr": "i64", "scores_ptr": "fp32"}
        build(exact_triton.sample_shares_kernel, chip, pointers, constants)


@few_of(
    {
        "stride": [4, 8, 64, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (16, 32))],
        "dim,dtype": [(128, "bf16"), (64, "bf16"), (96, "fp16")],
        "maximum": [False, True],
    }
)
def test_hopper_estimate_compiles(dim, dtype, stride, maximum):
    padded, keys = padded_head(dim), estimate_hopper.KEYS
    constants = {"HEAD_DIM": dim, "DIM": padded, "STRIDE": stride, "PER": BLOCK // stride}
    constants |= {"KEYS": keys, "STAGES": estimate_hopper.STAGES}
    constants |= {"SAMPLES": estimate_hopper.SAMPLES, "MAXIMUM": maximum, "PACKED": maximum}
    registers = estimate_hopper.REGISTERS
    constants |= dict(zip(("CONSUMER_REGS", "PRODUCER_REGS"), registers, strict=True))
    layout = estimate_hopper.keys_layout(padded)
    pointers = {"k_desc": f"tensordesc<{dtype}[1, {keys}, {padded}],{layout!r}>", "q_ptr": dtype}
    pointers |= dict.fromkeys(("scores_ptr", "scratch_ptr"), "fp32")
    pointers |= {"starts_ptr": "i64", "counter_ptr": "i32"}
    constants |= {"FOLDED": stride == 8, "OVERLAP": True}
    options = {"num_warps": 4, "launch_pdl": True}
    compiled = build(block_scores_gluon_kernel, 90, pointers, constants, **options)
    for needed in ("wgmma.mma_async", "cp.async.bulk.tensor.3d", "setmaxnreg", WAITS):
        assert needed in compiled.asm["ptx"]


@few_of({"chip,dtype,dim": SHAPES, "last": profile_triton.LAST})
def test_profile_kernels_compile(chip, dtype, dim, last):
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "LAST": last}
    constants |= {"PRECISION": "ieee" if dtype == torch.float32 else "tf32"}
    pointers = {"q_ptr": NAMES[dtype], "k_ptr": NAMES[dtype]}
    pointers |= dict.fromkeys(("lse_ptr", "columns_ptr", "diagonals_ptr"), "fp32")
    options = profile_triton.launch_options(dtype)
    build(profile_triton.profile_sums_kernel, chip, pointers, constants, **options)
    constants["PIECE"] = profile_triton.PIECE
    build(profile_triton.profile_lse_kernel, chip, pointers, constants, **options)


@shapes
def test_energy_kernel_compiles(chip, dtype, dim):
    constants = {"HEAD_DIM": dim, "PADDED": padded_head(dim), "COLUMNS": energy_triton.COLUMNS}
    constants |= {"BLOCK": BLOCK, "LOG2_E": energy_triton.LOG2_E}
    pointers = {"q_ptr": NAMES[dtype], "mean_ptr": NAMES[dtype], "out_ptr": "fp32"}
    build(energy_triton.block_energies_kernel, chip, pointers, constants, num_warps=8)


@few_of({"chip": list(SHARED), "width": [16, 1024, 4096], "pay": [False, True]}, rows=4)
def test_selection_kernel_compiles(chip, width, pay):
    constants = {"W": width, "ROW": BLOCK, "WORK": tl.float64, "PAY": pay}
    overlap = chip >= 90
    constants |= {"SINK": True, "DIAGONAL": True, "LAST_ROW": True, "OVERLAP": overlap}
    pointers = {"scores_ptr": "fp32", "share_ptr": "fp64", "index_ptr": "i32", "count_ptr": "i32"}
    pointers |= {"tally_ptr": "i64", "density_ptr": "fp32"}
    warps = max(1, width // (32 * select_triton.LANE_SCORES))
    options = {"num_warps": warps, "launch_pdl": overlap}
    compiled = build(select_triton.select_kernel, chip, pointers, constants, **options)
    # Nothing is read or written before the kernels ahead have ended.
    before, found, _ = compiled.asm["ptx"].partition(WAITS)
    assert bool(found) == overlap
    assert not overlap or not re.search(r"(ld|st|atom|red)\.global", before)


@pytest.mark.parametrize("chip", SHARED)
def test_list_kernel_compiles(chip):
    pointers = {"map_ptr": "u8", "index_ptr": "i32", "count_ptr": "i32"}
    build(lists_triton.map_lists_kernel, chip, pointers, {"W": 1024}, num_warps=2)


@pytest.mark.parametrize("chip", [70, 86, 89, 120])
def test_every_chip_has_settings(chip):
    for kernel in ("sparse", "estimate"):
        for dim in (64, 96, 128):
            assert BLOCK % launch_for(kernel, chip, dim, torch.bfloat16).block_n == 0
