"""XAttention's rule: values worked out by hand from the paper's definition."""

from __future__ import annotations

import json

import pytest
import torch

from method.keep import KeepPolicy
from method.ops.antidiagonal.torch import antidiagonal_scores
from method.ops.rr_scores.torch import block_scores
from method.xattention import XAttention, wrapper_chunk
from tests.attention_cases import NO_KEEP, Case, tensors

SINK_DIAGONAL = KeepPolicy(sink=True, diagonal=True, last_row=False)


def zeros(length: int = 2048, heads: int = 1) -> torch.Tensor:
    return torch.zeros(1, heads, length, 16, dtype=torch.float64)


def select(method: XAttention, query, key, keep=SINK_DIAGONAL, layer=0):
    return method.select(query, key, scale=0.25, layer=layer, keep=keep)


def test_uniform_scores_are_those_of_rr():
    scores = antidiagonal_scores(zeros(), zeros(), scale=0.25, stride=8)[0, 0]
    assert scores[0, 0] == pytest.approx(16)
    assert scores[1, :2].tolist() == pytest.approx([10.8443, 5.1557], abs=1e-4)
    assert scores[3, :4].tolist() == pytest.approx([4.5615] * 3 + [2.3155], abs=1e-4)
    assert not bool(scores.triu(1).any())
    sampled = block_scores(zeros(), zeros(), scale=0.25, stride=8)[0, 0]
    torch.testing.assert_close(scores, sampled, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("tau", "selector", "chunk", "blocks"),
    [
        (0.9, "forced_first", None, 130),
        (0.95, "forced_first", None, 136),
        (0.9, "released", None, 136),
        # Rows 10 to 15 lose a block each; those of the first chunk keep it.
        (0.9, "released", 1536, 132),
        (0.9, "released", 128, 130),
        (0.9, "top_p", None, 135),
    ],
)
def test_uniform_selection(tau, selector, chunk, blocks):
    method = XAttention(tau=tau, selector=selector, chunk=chunk)
    assert int(select(method, zeros(), zeros()).counts.sum()) == blocks


def test_the_authors_chunk():
    lengths = (1, 2048, 3000, 16384, 16385, 32768, 65536, 131072, 262144)
    chunks = [wrapper_chunk(length) for length in lengths]
    assert chunks == [2048, 2048, 4096, 16384, 8192, 8192, 4096, 2048, 2048]


def test_the_chunk_follows_the_length():
    # 17000 keys: the rows of 8192 tokens keep one block more, 64 of the last 5 rows of this call none.
    query, key, _ = tensors(Case(600, 17000))
    late, described = (
        select(XAttention(selector=name, tau=0.5), query, key).to_map()
        for name in ("released", "forced_first")
    )
    assert torch.equal(late, described)
    early = select(XAttention(tau=0.5, chunk=17024), query, key).to_map()
    assert int(early.sum()) > int(described.sum())


def test_chunked_prefill_chooses_the_same_blocks():
    query, key, _ = (x.double() for x in tensors(Case(1000, 1000, group=2)))
    method = XAttention(tau=0.7, chunk=384)
    whole = select(method, query, key).to_map()
    for start, end in ((0, 384), (384, 640), (640, 1000)):
        part = select(method, query[:, :, start:end], key[:, :, :end]).to_map()
        assert torch.equal(part, whole[:, :, start // 128 : -(-end // 128), : part.shape[-1]])


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("query_at", [0, 3, 7])
def test_only_the_antidiagonal_is_seen(stride, query_at):
    query, key = zeros(), zeros()
    query[:, :, torch.arange(2048) % stride == query_at, 0] = 80
    for key_at in range(stride):
        key.zero_()
        key[:, :, 384 + key_at, 0] = 80
        score = float(antidiagonal_scores(query, key, scale=0.25, stride=stride)[0, 0, 10, 3])
        full = 128 / stride
        if query_at + key_at == stride - 1:
            assert score == pytest.approx(full, abs=0.01)
        else:
            # Rows see 10.5 blocks on average, all alike.
            assert score == pytest.approx(full / 10.5, rel=0.01)


def test_a_cell_by_hand():
    # S = 4, two strides, D = 1: logits are sums over q[3-s] * k[s] of two strides, over S.
    query = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64).view(1, 1, 8, 1)
    key = torch.tensor([1.0, 0, 2, 0, 0, 1, 0, 1], dtype=torch.float64).view(1, 1, 8, 1)
    # Stride 0: 4*1 + 2*2 = 8, alone. Stride 1: [8*1 + 6*2, 7*1 + 5*1] = [20, 12].
    scores = antidiagonal_scores(query, key, scale=0.5, stride=4)
    assert float(scores[0, 0, 0, 0]) == pytest.approx(2.0)
    most = antidiagonal_scores(query, key, scale=0.5, stride=4, reduction="max")
    assert float(most[0, 0, 0, 0]) == pytest.approx(1.0)
    wide_key = torch.nn.functional.pad(key, (0, 0, 124, 0))
    # Keys shifted by 124 zeros: stride 1 now sees 31 empty strides and both of its own.
    shares = torch.tensor([0.0] * 31 + [20 / 8, 12 / 8]).softmax(0)
    scores = antidiagonal_scores(query, wide_key, scale=0.5, stride=4)
    first = torch.tensor([0.0] * 31 + [8 / 8]).softmax(0)
    assert scores[0, 0, 0].tolist() == pytest.approx(
        [float(first.sum() + shares[:32].sum()), float(shares[32])]
    )


@pytest.mark.parametrize("stride", [4, 8, 16, 32, 64])
def test_a_full_row_sums_to_its_strides(stride):
    query, key, _ = (x.double() for x in tensors(Case(1024, 1024, group=2)))
    scores = antidiagonal_scores(query, key, scale=0.25, stride=stride)
    torch.testing.assert_close(scores.sum(-1), torch.full_like(scores[..., 0], 128 / stride))


def test_a_constant_added_to_all_keys_changes_nothing():
    query, key, _ = (x.double() for x in tensors(Case(2048, 2048, group=2)))
    constant = torch.linspace(-3, 3, key.shape[-1], dtype=torch.float64)
    plain, moved = (select(XAttention(tau=0.8), query, part) for part in (key, key + constant))
    assert torch.equal(plain.to_map(), moved.to_map())


def test_a_tiny_share_keeps_sink_and_diagonal_only():
    query, key, _ = (x.double() for x in tensors(Case(2048, 2048)))
    # 16 rows: one block in the first, two in each of the others.
    described = XAttention(tau=1e-9, selector="forced_first")
    assert int(select(described, query, key).counts.sum()) == 1 + 2 * 15
    # Without always-kept blocks one of each row crosses the threshold.
    assert int(select(described, query, key, NO_KEEP).counts.sum()) == 16


@pytest.mark.parametrize(
    ("q_len", "k_len", "visible", "forced"),
    [
        (256, 512, ["1110", "1111"], ["1010", "1001"]),
        (257, 384, ["110", "111", "111"], ["110", "101", "101"]),
    ],
)
def test_fewer_queries_than_keys(q_len, k_len, visible, forced):
    query, key, _ = (x.double() for x in tensors(Case(q_len, k_len)))
    for tau, wanted in ((1 - 1e-12, visible), (1e-9, forced)):
        method = XAttention(tau=tau, selector="forced_first")
        kept = select(method, query, key).to_map()[0, 0].int().tolist()
        assert ["".join(map(str, row)) for row in kept] == wanted


@pytest.mark.parametrize("length", [1000, 2048])
def test_chunk_rows_do_not_change_the_scores(length):
    query, key, _ = (x.double() for x in tensors(Case(length, length, group=4)))
    whole = antidiagonal_scores(query, key, scale=0.25, stride=8, chunk_rows=64)
    for rows in (1, 3):
        part = antidiagonal_scores(query, key, scale=0.25, stride=8, chunk_rows=rows)
        torch.testing.assert_close(part, whole, atol=1e-12, rtol=0)


def test_a_head_may_have_its_own_threshold(tmp_path):
    query, key, _ = tensors(Case(1000, 1000, group=2, kv_heads=2))
    taus = [[0.5, 0.6, 0.7, 1.0], [0.9] * 4]
    (tmp_path / "table.json").write_text(json.dumps(taus))
    method = XAttention(thresholds=str(tmp_path / "table.json"))
    mask = select(method, query, key).to_map()
    for head, tau in enumerate(taus[0]):
        assert torch.equal(mask[:, head], select(XAttention(tau=tau), query, key).to_map()[:, head])
    second = select(method, query, key, layer=1).to_map()
    assert torch.equal(second, select(XAttention(tau=0.9), query, key).to_map())
    with pytest.raises(ValueError, match=r"has 2 layers, but layer 2 .* another model"):
        select(method, query, key, layer=2)
    with pytest.raises(ValueError, match=r"4 heads in layer 0, the model has 2: .* another model"):
        select(method, query[:, :2], key[:, :1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "not a JSON list"),
        ("[[0.9, 2]]", r"numbers in \(0, 1\] for every layer, found \[0.9, 2\]"),
        ("[0.9]", r"needs a list of numbers"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, content, message):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(ValueError, match=f"thresholds=.*table.json.*{message}"):
        XAttention(thresholds=str(tmp_path / "table.json"))


def test_first_layers_may_stay_dense():
    query, key, _ = tensors(Case(1000, 1000))
    method = XAttention(tau=0.5, dense_layers=3)
    density = [select(method, query, key, NO_KEEP, layer).counts.sum() for layer in (0, 2, 3)]
    assert density[0] == density[1] == 36 > density[2]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tau": 0.0}, r"tau=0.0 is not in \(0, 1\]"),
        ({"stride": 12}, "stride=12 is not one of 4, 8, 16, 32, 64"),
        ({"chunk": 200}, "chunk=200 is not a multiple of the block, 128"),
        ({"chunk": 0}, "chunk=0 is not a multiple"),
        ({"selector": "v2"}, "selector='v2' is not one of released, forced_first, top_p"),
        ({"dense_layers": -1}, "dense_layers=-1 is negative"),
        ({"estimator": "cuda"}, "estimator='cuda' is not one of auto, torch, triton"),
        ({"thresholds": "/no/file.json"}, r"thresholds=/no/file.json cannot be read"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=f"xattention: {message}"):
        XAttention(**setting)
