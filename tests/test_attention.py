from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from method.attention import SparsePrefill, block_sparse_attention, resolve_backend
from method.blocks import BlockMask
from method.full import FullAttention
from method.keep import RR_KEEP
from method.ops.block_sparse.reference import reference_attention
from method.ops.dense import dense_decode, dense_prefill
from method.rr import RRAttention
from tests.attention_cases import CASES, NO_KEEP, Case, random_mask, tensors

LONG = Case(4096, 4096, group=2, dim=64, density=0.2)


@pytest.mark.parametrize("case", [*CASES, LONG], ids=str)
def test_torch_path_matches_the_reference(case, poisoned):
    query, key, value = tensors(case)
    mask = random_mask(case)
    truth, _ = reference_attention(query, key, value, mask, scale=0.1)
    output = block_sparse_attention(query, key, value, mask, scale=0.1, backend="torch")
    assert output.shape == query.shape and output.dtype == query.dtype
    torch.testing.assert_close(output, truth, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("case", CASES[4:6], ids=str)
def test_torch_path_in_bf16(case, poisoned):
    query, key, value = tensors(case, torch.bfloat16)
    mask = random_mask(case)
    truth, _ = reference_attention(query.float(), key.float(), value.float(), mask, scale=0.1)
    output = block_sparse_attention(query, key, value, mask, scale=0.1)
    torch.testing.assert_close(output.float(), truth, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    ("length", "group", "dim"), [(384, 1, 64), (385, 4, 96), (511, 7, 128), (256, 8, 64)]
)
def test_all_true_map_is_dense_attention(length, group, dim, backend, poisoned):
    case = Case(length, length, group, dim)
    query, key, value = tensors(case)
    mask = BlockMask.causal(1, group, length, length)
    dense = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    output = block_sparse_attention(query, key, value, mask, scale=dim**-0.5, backend=backend)
    torch.testing.assert_close(output, dense, atol=5e-6, rtol=1e-4)


def test_reference_matches_a_plain_softmax_in_double():
    case = Case(200, 333, group=2, density=0.5)
    query, key, value = (x.double() for x in tensors(case))
    mask = random_mask(case)
    kept = mask.to_map().repeat_interleave(128, 2).repeat_interleave(128, 3)[..., :200, :333]
    seen = kept & torch.ones(200, 333).tril(133).bool()
    keys, values = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    logits = (query @ keys.mT * 0.2).masked_fill(~seen, -torch.inf)
    output, lse = reference_attention(query, key, value, mask, scale=0.2)
    torch.testing.assert_close(output, logits.softmax(-1) @ values)
    torch.testing.assert_close(lse, logits.logsumexp(-1))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_unselected_blocks_do_not_count(backend):
    case = Case(512, 512, group=2, density=1.0)
    query, key, value = tensors(case)
    mask = BlockMask.from_map(random_mask(case).to_map() & (torch.arange(4) != 1), 512, 512)
    before = block_sparse_attention(query, key, value, mask, scale=0.1, backend=backend)
    for tensor in (key, value):
        tensor[:, :, 128:256] = 50.0
    after = block_sparse_attention(query, key, value, mask, scale=0.1, backend=backend)
    assert torch.equal(before, after)
    dense = BlockMask.causal(1, 2, 512, 512)
    assert not torch.allclose(
        block_sparse_attention(query, key, value, dense, scale=0.1, backend=backend), after
    )


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_rows_without_keys_give_zero(backend, poisoned):
    case = Case(300, 300, group=2, density=0.0, keep=NO_KEEP)
    query, key, value = tensors(case)
    output = block_sparse_attention(query, key, value, random_mask(case), scale=0.1, backend=backend)
    assert bool((output == 0).all())
    # Only the newest block of an unaligned row is kept: its early queries see none of it.
    kept = torch.zeros(1, 2, 3, 4, dtype=torch.bool)
    kept[:, :, 0, 1] = True
    mask = BlockMask.from_map(kept, 300, 400)
    key, value = (F.pad(x, (0, 0, 0, 100), value=1.0) for x in (key, value))
    output = block_sparse_attention(query, key, value, mask, scale=0.1, backend=backend)
    assert bool((output[:, :, :28] == 0).all()) and bool((output[:, :, 28:128] != 0).any(-1).all())
    assert bool((output[:, :, 128:] == 0).all())


def test_reference_lse_of_an_empty_row_is_minus_infinity():
    case = Case(130, 130, density=0.0, keep=NO_KEEP)
    query, key, value = tensors(case)
    _, lse = reference_attention(query, key, value, random_mask(case), scale=0.1)
    assert bool((lse == -torch.inf).all())


@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (129, 129), (1, 300), (1100, 1333)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_prefill_is_bottom_right_aligned(q_len, k_len, dtype):
    case = Case(q_len, k_len, group=2)
    query, key, value = tensors(case, dtype)
    mask = BlockMask.causal(1, 2, q_len, k_len)
    truth, _ = reference_attention(query.float(), key.float(), value.float(), mask, scale=0.1)
    output, name = dense_prefill(query, key, value, scale=0.1)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output.float(), truth, atol=tolerance, rtol=tolerance)
    assert name == "cpu-flash"


def test_dense_decode_sees_every_key():
    query, key, value = tensors(Case(1, 300, group=4))
    truth, _ = reference_attention(query, key, value, BlockMask.causal(1, 4, 1, 300), scale=0.1)
    torch.testing.assert_close(dense_decode(query, key, value, scale=0.1), truth, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="one query token"):
        dense_decode(key, key, value, scale=0.1)


def test_prefill_reports_density_and_kernel():
    query, key, value = tensors(Case(1000, 1000, group=4))
    dense = SparsePrefill(FullAttention(), NO_KEEP)(query, key, value, scale=0.1, layer=0)
    assert dense.kernel == "dense:cpu-flash" and bool((dense.density == 1).all())
    sparse = SparsePrefill(RRAttention(tau=0.5), RR_KEEP)(query, key, value, scale=0.1, layer=0)
    assert sparse.kernel == "torch" and sparse.density.shape == (1, 4)
    assert 0 < float(sparse.density.max()) < 1
    exact = SparsePrefill(RRAttention(tau=1.0), RR_KEEP)(query, key, value, scale=0.1, layer=0)
    torch.testing.assert_close(exact.output, dense.output, atol=1e-5, rtol=1e-4)


def test_short_prompts_can_be_dense():
    query, key, value = tensors(Case(1000, 1000, group=4))
    rule = RRAttention(tau=0.5)
    for limit, kernel in ((1000, "torch"), (1001, "dense:cpu-flash")):
        prefill = SparsePrefill(rule, RR_KEEP, dense_below=limit)
        result = prefill(query, key, value, scale=0.1, layer=0)
        assert result.kernel == kernel
        assert bool((result.density == 1).all()) == kernel.startswith("dense")


def test_backends_are_resolved_or_refused():
    query = torch.zeros(1, 1, 1, 64)
    assert resolve_backend(query, "auto") == "torch"
    assert resolve_backend(query, "triton") == "triton"
    with pytest.raises(ValueError, match="backend='cuda' is not one of auto, hopper, triton"):
        resolve_backend(query, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_hopper_kernel_is_for_hopper_and_16_bit():
    hopper = torch.cuda.get_device_capability() == (9, 0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        query = torch.zeros(1, 1, 1, 64, dtype=dtype, device="cuda")
        fast = hopper and dtype != torch.float32
        assert resolve_backend(query, "auto") == ("hopper" if fast else "triton")


def test_bad_inputs_say_what_is_wrong():
    query, key, value = tensors(Case(256, 256, group=2))
    mask = BlockMask.causal(1, 2, 256, 256)

    def run(q=query, k=key, v=value, m=mask, scale=0.1):
        return block_sparse_attention(q, k, v, m, scale=scale, backend="torch")

    with pytest.raises(ValueError, match="q_len=384"):
        run(m=BlockMask.causal(1, 2, 384, 384))
    with pytest.raises(ValueError, match="batch and heads"):
        run(m=BlockMask.causal(1, 1, 256, 256))
    with pytest.raises(TypeError, match="one floating dtype"):
        run(k=key.half())
    with pytest.raises(ValueError, match="1 <= q_len <= k_len"):
        run(k=key[:, :, :128], v=value[:, :, :128])
    with pytest.raises(ValueError, match="must match key"):
        run(v=value[..., :32])
    with pytest.raises(ValueError, match="scale=0"):
        run(scale=0.0)
    with pytest.raises(ValueError, match="not a multiple of 2 KV heads"):
        run(q=query[:, :1], k=key.expand(-1, 2, -1, -1), v=value.expand(-1, 2, -1, -1))
    future = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="above the causal diagonal"):
        run(m=BlockMask.from_map(future, 256, 256))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 96, 128])
@pytest.mark.parametrize(("q_len", "k_len"), [(1000, 1000), (200, 1333), (1, 300)])
def test_dense_prefill_on_a_gpu(q_len, k_len, dim, dtype):
    case = Case(q_len, k_len, group=4, dim=dim, kv_heads=2)
    query, key, value = tensors(case, dtype, "cuda")
    mask = BlockMask.causal(1, 8, q_len, k_len, "cuda")
    truth, _ = reference_attention(query.float(), key.float(), value.float(), mask, scale=0.1)
    output, name = dense_prefill(query, key, value, scale=0.1)
    tolerance = 2e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output.float(), truth, atol=tolerance, rtol=tolerance)
    assert name in ("cudnn", "flash", "efficient", "math")
    if dtype != torch.float32:
        assert name in ("cudnn", "flash")


@pytest.mark.gpu
def test_executor_on_a_gpu_agrees_with_the_torch_path():
    case = Case(1000, 1000, group=4, dim=128, kv_heads=2)
    query, key, value = tensors(case, torch.bfloat16, "cuda")
    mask = random_mask(case, "cuda")
    own = block_sparse_attention(query, key, value, mask, scale=0.1)
    torch_path = block_sparse_attention(query, key, value, mask, scale=0.1, backend="torch")
    torch.testing.assert_close(own.float(), torch_path.float(), atol=2e-2, rtol=2e-2)
    result = SparsePrefill(RRAttention(), RR_KEEP)(query, key, value, scale=0.1, layer=0)
    assert result.kernel == resolve_backend(query, "auto") and result.density.is_cuda
