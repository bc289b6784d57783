"""MInference: its walk over lines by hand and told slowly, its native attention, its pattern files."""

from __future__ import annotations

import pytest
import torch

from method.attention import SparsePrefill
from method.density import causal_blocks
from method.keep import RR_KEEP
from method.minference import MInference
from method.ops.vertical_slash.head_patterns import LayerHeads
from method.ops.vertical_slash.native import cover_of
from method.ops.vertical_slash.selection import line_map, project_lines, take_highest
from method.ops.vertical_slash.torch import line_cover, slash_starts
from tests.attention_cases import NO_KEEP, Case, tensors
from tests.patterns import MIXED, write
from tests.test_streaming import blocks_of


def chosen(positions: list[int], length: int) -> torch.Tensor:
    flags = torch.zeros(1, length, dtype=torch.bool)
    flags[0, positions] = True
    return flags


def starts_of(distances: list[int], length: int, tile: int) -> list[int]:
    found = slash_starts(chosen(distances, length), length, length)[0, tile]
    return [int(start) for start in found if start >= 0]


def test_the_walk_by_hand():
    # Queries 256 to 319: E = 320. Distance 0 needs keys 256-319, distance 64 keys 192-255.
    assert starts_of([0, 64], 512, 4) == [192, 256]
    # Distance 100 needs 156-219; 220-283 extends it by a full 64, and so does what is left of 320.
    assert starts_of([0, 100], 512, 4) == [156, 256]
    assert starts_of([0, 50, 100], 512, 4) == [156, 220, 284]
    # Ranges at the front are moved to begin at key 0; distances of 320 and more are not reached.
    assert starts_of([0, 300, 310, 320, 400], 512, 4) == [0, 256]
    # 256 ends at 64, 193 at 127 (an extension to 128), 192 at 128 (inside).
    assert starts_of([0, 192, 193, 256], 512, 4) == [0, 64, 256]


def lines_of(method: MInference, query, key, members: list[int]):
    """Keys and distances that some heads choose: bool ``[B, members, Lk]`` each."""
    layer = LayerHeads(method.heads_of(0, query.shape[1]), method.ratio, "torch")
    return layer.lines(query, key, 0.25, members)


def test_one_hot_key_by_hand():
    # Every query looks at key 300 only, so the last 64 have distances 660 to 723 with a mass of 1 each.
    query, key = (torch.zeros(1, 1, 1024, 16, dtype=torch.float64) for _ in "qk")
    query[..., 0] = 30
    key[:, :, 300, 0] = 30
    method = MInference(vertical_size=31, slash_size=101)
    columns, slashes = lines_of(method, query, key, [0])
    assert columns[0, 0].nonzero().flatten().tolist() == [*range(30), 300]
    # Of equal distances the nearest.
    assert slashes[0, 0].nonzero().flatten().tolist() == [*range(100), 660]
    kept = method.select(query, key, scale=0.25, layer=0, keep=NO_KEEP).to_map()[0, 0]
    # Keys in blocks 0 and 2; distances 0 to 99 and 660 lie in block diagonals 0 and 1, 5 and 6.
    row, column = torch.arange(8)[:, None], torch.arange(8)[None, :]
    wanted = (column == 0) | (column == 2)
    for diagonal in (0, 1, 5, 6):
        wanted = wanted | (row - column == diagonal)
    assert torch.equal(kept, wanted & (column <= row))
    # The last 64 queries: 660 needs 300-363; 99 needs 861-924, and nearer ones extend it twice.
    assert starts_of([*range(100), 660], 1024, 15) == [300, 861, 925, 989]
    tokens, _ = line_cover(columns[0], slashes[0], 1024, 1024)
    wanted_keys = [*range(30), *range(300, 364), *range(861, 1024)]
    assert tokens[0, 15].nonzero().flatten().tolist() == wanted_keys
    # The first 64: one range; key 300 and the rest of the sink lie in it or in the future.
    assert tokens[0, 0].nonzero().flatten().tolist() == [*range(64)]


def slow_walk(distances: list[int], columns: list[int], end: int) -> tuple[list[int], list[int]]:
    """Range starts and single columns of one query tile, told as a loop over sorted distances."""
    ranges, current = [], None
    for distance in sorted(distances, reverse=True):
        if distance >= end:
            continue
        range_end = max(end - distance, 64)
        if current is None:
            current = [range_end - 64, range_end]
        elif range_end > current[1] + 64:
            ranges.append(current)
            current = [range_end - 64, range_end]
        elif range_end > current[1]:
            current[1] += 64
    if current is not None:
        ranges.append(current)
    starts = [start for low, high in ranges for start in range(low, high, 64)]
    inside = {key for low, high in ranges for key in range(low, high)}
    return starts, [key for key in columns if key < end and key not in inside]


@pytest.mark.parametrize(("q_len", "k_len"), [(1000, 1000), (512, 512), (200, 777)])
@pytest.mark.parametrize("seed", range(4))
def test_the_walk_told_slowly(q_len, k_len, seed):
    generator = torch.Generator().manual_seed(seed)
    distances = [0, *torch.randperm(k_len, generator=generator)[: 8 * 4**seed].tolist()]
    columns = sorted(torch.randperm(k_len, generator=generator)[:100].tolist())
    tokens, pairs = line_cover(chosen(columns, k_len), chosen(distances, k_len), q_len, k_len)
    total = 0
    for tile in range(-(-q_len // 64)):
        end = (tile + 1) * 64 + k_len - q_len
        starts, single = slow_walk(distances, columns, end)
        wanted = {key for start in starts for key in range(start, start + 64) if key < k_len}
        assert set(tokens[0, tile].nonzero().flatten().tolist()) == wanted | set(single)
        total += 64 * 64 * (len(starts) + -(-len(single) // 64))
    assert int(pairs) == total


@pytest.mark.parametrize(("q_len", "k_len"), [(1000, 1000), (1024, 1024), (300, 777), (128, 129)])
@pytest.mark.parametrize("seed", range(3))
def test_the_projection_holds_every_block_a_line_touches_and_no_other(q_len, k_len, seed):
    generator = torch.Generator().manual_seed(seed)
    columns, slashes = (
        (torch.rand(1, 2, k_len, generator=generator) < 0.004).index_fill(2, torch.tensor([0]), True)
        for _ in "cs"
    )
    blocks = line_map(*project_lines(columns, slashes, q_len, k_len), q_len, k_len)
    distance = torch.arange(q_len)[:, None] + k_len - q_len - torch.arange(k_len)
    for head in range(2):
        on_line = columns[0, head] | slashes[0, head][distance.clamp(min=0)]
        touched = blocks_of(on_line & (distance >= 0))
        kept = blocks[0, head]
        if q_len % 128 == 0:
            assert torch.equal(kept, touched)
        else:
            # A ragged last row counts as a full one.
            assert torch.equal(kept[:-1], touched[:-1]) and not bool((touched & ~kept).any())


def test_sizes_by_hand():
    scores = torch.tensor([[[1.0, 5, 3, 4], [1, 5, 3, 4]]])
    kept = take_highest(scores, torch.tensor([1.0, 3]))
    assert kept.int().tolist() == [[[0, 1, 0, 0], [0, 1, 1, 1]]]
    # Equal scores go to the earlier entry, and there is no more to take than there is.
    equal = torch.tensor([[0.0, 2, 0, 2, 0], [0, 2, 0, 2, 0]])
    assert take_highest(equal, torch.tensor([3, 9])).int().tolist() == [[1, 1, 0, 1, 0], [1] * 5]


def test_first_keys_and_near_distances_come_first():
    query, key, _ = tensors(Case(2000, 2000, group=2))
    method = MInference(vertical_size=0, slash_size=0)
    columns, slashes = lines_of(method, query, key, [0, 1])
    assert columns.nonzero()[:, 2].tolist() == [*range(30)] * 2
    assert slashes.nonzero()[:, 2].tolist() == [*range(50)] * 2
    method = MInference(vertical_size=31, slash_size=101)
    columns, slashes = lines_of(method, query, key, [1])
    # The one free place goes to what the last 64 queries look at most.
    logits = query[0, 1, -64:] @ key[0, 0].T * 0.25
    future = torch.arange(2000) > torch.arange(1936, 2000)[:, None]
    weights = logits.masked_fill(future, -torch.inf).softmax(-1)
    assert int(columns[0, 0].nonzero()[-1]) == int(weights[:, 30:].sum(0).argmax()) + 30
    distance = torch.arange(1936, 2000)[:, None] - torch.arange(2000)
    sums = torch.stack([weights[distance == o].sum() for o in range(2000)])
    assert int(slashes[0, 0].nonzero()[-1]) == int(sums[100:].argmax()) + 100


def test_native_attention_is_exact_over_what_it_covers(tmp_path):
    case = Case(1000, 1000, group=2, kv_heads=2, batch=2)
    query, key, value = (x.double() for x in tensors(case))
    method = MInference(
        patterns=write(tmp_path, MIXED), vertical_size=60, slash_size=150, variant="native"
    )
    result = SparsePrefill(method, NO_KEEP)(query, key, value, scale=0.2, layer=0)
    assert result.kernel.startswith("native") and method.own_kernel(query) == "native:torch"
    layer = LayerHeads(method.heads_of(0, 4), 1.0, "torch")
    for head in range(4):
        tokens, pairs = cover_of(query, key, 0.2, layer, [head])
        seen = tokens.repeat_interleave(64, 1)[:, :1000].tril()
        keys, values = key[:, head // 2], value[:, head // 2]
        logits = (query[:, head] @ keys.transpose(1, 2) * 0.2).masked_fill(~seen, -torch.inf)
        torch.testing.assert_close(result.output[:, head], logits.softmax(-1) @ values)
        wanted = pairs / (causal_blocks(1000, 1000) * 128 * 128)
        torch.testing.assert_close(result.density[:, head], wanted.float())
    assert bool((result.density[:, :2] < 0.8).all())


def test_native_computes_less_than_its_projection():
    query, key, value = tensors(Case(2048, 2048, group=2))
    settings = {"vertical_size": 31, "slash_size": 101}
    native, projected = (
        SparsePrefill(MInference(variant=variant, **settings), NO_KEEP)(
            query, key, value, scale=0.25, layer=0
        )
        for variant in ("native", "projected")
    )
    assert projected.kernel == "torch"
    assert bool((native.density < 0.8 * projected.density).all())


def test_the_projection_does_not_hold_all_that_native_computes():
    # Behind the near distances, 384 and 386: a range that ends at 386 back is widened by a whole
    # tile, past 384 and into the block before it, which no chosen line touches.
    slashes = torch.zeros(1, 1024, dtype=torch.bool)
    slashes[0, [*range(100), 384, 386]] = True
    columns = torch.zeros_like(slashes)
    columns[0, :30] = True
    tokens, _ = line_cover(columns, slashes, 1024, 1024)
    pairs = tokens[0].repeat_interleave(64, 0).tril()
    blocks = pairs.unflatten(1, (-1, 128)).any(2).unflatten(0, (-1, 128)).any(1)
    projected = line_map(*project_lines(columns[None], slashes[None], 1024, 1024), 1024, 1024)[0, 0]
    outside = (blocks & ~projected).nonzero().tolist()
    assert outside == [[row, row - 2] for row in range(3, 8)]


def test_native_with_everything_chosen_is_dense_attention():
    query, key, value = tensors(Case(700, 900, group=2))
    dense, full = (
        SparsePrefill(MInference(variant=variant, ratio=1000.0), NO_KEEP)(
            query, key, value, scale=0.2, layer=0
        )
        for variant in ("native", "projected")
    )
    torch.testing.assert_close(dense.output, full.output, atol=1e-5, rtol=1e-4)
    assert bool((full.density == 1).all()) and bool((dense.density <= 1).all())


def test_a_keep_policy_is_added_and_counted():
    query, key, value = tensors(Case(1500, 1500))
    method = MInference(vertical_size=30, slash_size=100, variant="native")
    plain = SparsePrefill(method, NO_KEEP)(query, key, value, scale=0.2, layer=0)
    kept = SparsePrefill(method, RR_KEEP)(query, key, value, scale=0.2, layer=0)
    assert float(kept.density) > float(plain.density)
    dense = SparsePrefill(MInference(ratio=1000.0), NO_KEEP)(query, key, value, scale=0.2, layer=0)
    # The last row of blocks begins at query 1408.
    torch.testing.assert_close(
        kept.output[:, :, 1408:], dense.output[:, :, 1408:], atol=1e-5, rtol=1e-4
    )


def test_block_sparse_heads_take_the_best_pooled_tiles(tmp_path):
    query, key, _ = (x.double() for x in tensors(Case(512, 512)))
    patterns = write(tmp_path, [{"0": ["block_sparse", 0, 0, 1]}])
    method = MInference(patterns=patterns, ratio=0.02)
    tiles = LayerHeads(method.heads_of(0, 1), 0.02, "torch").tiles(query, key, [0])[0, 0]
    rows, columns = (x.view(8, 64, 64).mean(1) for x in (query[0, 0], key[0, 0]))
    products = rows @ columns.T
    for row in range(8):
        best = products[row, : row + 1].topk(min(2, row + 1)).indices.tolist()
        assert sorted(best) == tiles[row].nonzero().flatten().tolist()
    kept = method.select(query, key, scale=0.2, layer=0, keep=NO_KEEP).to_map()[0, 0]
    assert torch.equal(kept, tiles.view(4, 2, 4, 2).any(3).any(1))


def test_first_layers_may_stay_dense():
    query, key, _ = tensors(Case(1000, 1000))
    method = MInference(vertical_size=30, slash_size=100, dense_layers=1)
    counts = [
        int(method.select(query, key, scale=0.2, layer=n, keep=NO_KEEP).counts.sum()) for n in (0, 1)
    ]
    assert counts[0] == 36 > counts[1]
