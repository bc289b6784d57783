"""MInference's own granularity in Triton against its twins: on a GPU, or through the interpreter."""

from __future__ import annotations

import json

import pytest
import torch

from method.attention import SparsePrefill
from method.keep import EQUAL_KEEP, KeepPolicy
from method.minference import MInference
from method.ops.vertical_slash.cover import LineCover, cover_lines, cover_tiles
from method.ops.vertical_slash.torch import covered_attention, force_blocks, line_cover, tile_cover
from method.ops.vertical_slash.triton import line_attention_triton
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.conftest import INTERPRETING
from tests.products import few_of

pytestmark = pytest.mark.interpreter

bf16_on_gpu = pytest.mark.skipif(INTERPRETING, reason="the interpreter computes bf16 wrongly")
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=bf16_on_gpu)]
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 2e-2}
SINK_ONLY = KeepPolicy(sink=True, diagonal=False, last_row=False)
KEEPS = [
    pytest.param(NO_KEEP, id="none"),
    pytest.param(EQUAL_KEEP, id="equal"),
    pytest.param(SINK_ONLY, id="sink"),
]
LENGTHS = [(512, 512), (330, 330), (200, 777), (1, 130)]


def drawn_lines(k_len: int, columns: float, slashes: float, device: str, heads: int = 2):
    """Chosen keys and distances, 0 among them; the second head has half as many."""
    generator = torch.Generator().manual_seed(k_len)
    thin = torch.tensor([1.0, 0.5]).repeat(heads)[:heads, None]
    flags = [
        torch.rand(heads, k_len, generator=generator) < share * thin for share in (columns, slashes)
    ]
    flags[1][:, 0] = True
    return flags[0].to(device), flags[1].to(device)


def tokens_of(cover: LineCover, k_len: int, last_row_tile: int) -> torch.Tensor:
    """The cover's lists as a map ``[N, tiles, Lk]``; no key may come twice."""
    heads, tiles, _ = cover.starts.shape
    seen = torch.zeros(heads, tiles, k_len + 128, dtype=torch.int32)
    for head in range(heads):
        for tile in range(tiles):
            for start in cover.starts[head, tile, : cover.ranges[head, tile]].tolist():
                seen[head, tile, start : start + 64] += 1
            first = tile * cover.room + max(0, tile - last_row_tile) * cover.extra
            keys = cover.singles[head, first : first + int(cover.counts[head, tile].sum())]
            seen[head, tile].index_add_(0, keys.cpu(), torch.ones(len(keys), dtype=torch.int32))
    assert int(seen[..., :k_len].max()) == 1
    return seen[..., :k_len] == 1


@few_of({"q_len,k_len": LENGTHS, "slashes": [0.0, 0.01, 0.2], "keep": KEEPS}, rows=9)
def test_lists_cover_what_the_twin_covers(slashes, q_len, k_len, keep, kernel_device, poisoned):
    lines = drawn_lines(k_len, 0.2, slashes, kernel_device)
    forced = keep.forced(q_len, k_len, kernel_device)
    tokens, pairs = force_blocks(*line_cover(*lines, q_len, k_len), forced)
    cover = cover_lines(*lines, int(lines[0].sum(-1).max()), q_len, k_len, keep)
    assert torch.equal(cover.pairs(), pairs)
    last_row_tile = ((q_len + 127) // 128 - 1) * 2
    assert torch.equal(tokens_of(cover, k_len, last_row_tile), tokens.cpu())


@few_of({"q_len,k_len": LENGTHS, "keep": KEEPS})
def test_lists_of_aligned_tiles(q_len, k_len, keep, kernel_device, poisoned):
    generator = torch.Generator().manual_seed(q_len)
    shape = (2, -(-q_len // 64), -(-k_len // 64))
    tiles = (torch.rand(shape, generator=generator) < 0.4).to(kernel_device)
    tokens, pairs = force_blocks(*tile_cover(tiles, k_len), keep.forced(q_len, k_len, kernel_device))
    cover = cover_tiles(tiles, q_len, k_len, keep)
    assert torch.equal(cover.pairs(), pairs)
    last_row_tile = ((q_len + 127) // 128 - 1) * 2
    assert torch.equal(tokens_of(cover, k_len, last_row_tile), tokens.cpu())


CASES = [
    Case(1, 1, group=4, dim=64),
    Case(330, 330, group=2, dim=128, kv_heads=2),
    Case(200, 777, group=3, dim=96, batch=2),
    Case(512, 512, group=1, dim=64, kv_heads=3),
]


@few_of({"case": CASES, "keep": KEEPS[:2], "dtype": DTYPES})
def test_attention_matches_the_twin(case, keep, dtype, kernel_device, poisoned):
    query, key, value = tensors(case, dtype, kernel_device)
    members = torch.arange(case.heads - 1, -1, -2, device=kernel_device)
    number = case.batch * len(members)
    lines = drawn_lines(case.k_len, 0.1, 0.005, kernel_device, number)
    lines[1][0] = False
    cover = cover_lines(*lines, int(lines[0].sum(-1).max()), case.q_len, case.k_len, keep)
    output = torch.full_like(query, 7.0)
    line_attention_triton(query, key, value, output, members, cover, scale=0.2)
    forced = keep.forced(case.q_len, case.k_len, kernel_device)
    tokens, _ = force_blocks(*line_cover(*lines, case.q_len, case.k_len), forced)
    owners = members // case.group
    truth = covered_attention(
        query[:, members].flatten(0, 1),
        key[:, owners].flatten(0, 1),
        value[:, owners].flatten(0, 1),
        tokens,
        scale=0.2,
    )
    tolerance = TOLERANCE[dtype]
    found = output[:, members].flatten(0, 1)
    torch.testing.assert_close(found, truth, atol=tolerance, rtol=tolerance)
    others = torch.ones(case.heads, dtype=torch.bool)
    others[members.cpu()] = False
    assert bool((output[:, others.to(kernel_device)] == 7).all())


@pytest.mark.parametrize("keep", [NO_KEEP, EQUAL_KEEP], ids=["none", "equal"])
def test_all_patterns_attend_as_in_pytorch(keep, kernel_device, poisoned, tmp_path, monkeypatch):
    patterns = {
        "0": ["stream_llm", 100, 300, 1.0],
        "1": ["vertical_and_slash", 40, 100, 1.0],
        "2": ["block_sparse", 8, 1, 1.0],
    }
    (tmp_path / "patterns.json").write_text(json.dumps([patterns]))
    query, key, value = tensors(Case(500, 600, group=2, kv_heads=2), device=kernel_device, seed=2)
    options = {
        "patterns": str(tmp_path / "patterns.json"),
        "vertical_size": 30,
        "slash_size": 60,
        "variant": "native",
    }
    slow, fast = (
        SparsePrefill(MInference(estimator=estimator, **options), keep)(
            query, key, value, scale=0.2, layer=0
        )
        for estimator in ("torch", "triton")
    )
    torch.testing.assert_close(fast.output, slow.output, atol=5e-6, rtol=1e-4)
    assert torch.equal(fast.density, slow.density)
    # A few heads at a time give the same.
    monkeypatch.setattr("method.ops.vertical_slash.native._CHUNK_NUMBERS", 1)
    parts = SparsePrefill(MInference(estimator="triton", **options), keep)(
        query, key, value, scale=0.2, layer=0
    )
    assert torch.equal(parts.output, fast.output) and torch.equal(parts.density, fast.density)


def test_unsupported_inputs_say_what_is_supported(kernel_device):
    query, key, value = tensors(Case(128, 128, dim=80), device=kernel_device)
    method = MInference(variant="native", estimator="triton")
    with pytest.raises(ValueError, match=r"head size 80 .* \(supported: 64, 96, 128\)"):
        method.attend(query, key, value, scale=0.2, layer=0, keep=NO_KEEP)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_native_attention_on_a_gpu_at_length(dtype, poisoned):
    query, key, value = tensors(Case(8000, 8000, group=4, dim=128, kv_heads=2), dtype, "cuda")
    for keep in (NO_KEEP, EQUAL_KEEP):
        slow, fast = (
            SparsePrefill(
                MInference(variant="native", vertical_size=100, slash_size=300, estimator=estimator),
                keep,
            )(query, key, value, scale=0.09, layer=0)
            for estimator in ("torch", "auto")
        )
        # Rounding moves lines whose sum lies at the limit.
        assert float((fast.density - slow.density).abs().max()) < 0.002
        error = (fast.output.float() - slow.output.float()).norm() / slow.output.float().norm()
        assert float(error) < 0.02
