"""Recovery worked by hand, its interval, and the join to the dense cell."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from rr_bench.report import write_report
from rr_bench.report.recovery import SEED, Baselines, ReportError, pair, pooled, pooled_all, recovery
from tests.fabricate import FULL, KEEP, RR, cells_of, open_cell, record, write_cell


def test_recovery_by_hand() -> None:
    found = recovery([1, 0.5, 0, 0.5], [1, 1, 0, 0.5])
    assert (found.n, found.sparse, found.dense, found.value) == (4, 50.0, 62.5, 80.0)
    # Worst draw with a dense score: only the sample (0.5, 1); best: only ones that lost nothing.
    assert 50 <= found.lo < 80 < found.hi <= 100


def test_recovery_of_two_samples_is_the_exact_bootstrap() -> None:
    # Draws: (a, a) 1/4 gives 50, (a, b) 1/2 gives 75, (b, b) 1/4 gives 100.
    found = recovery([0.5, 1.0], [1.0, 1.0])
    assert (found.value, found.lo, found.hi) == (75.0, 50.0, 100.0)


def test_recovery_of_many_samples_matches_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    sparse = (rng.random(2000) < 0.9).astype(float)
    found = recovery(sparse.tolist(), [1.0] * 2000)
    half = 1.96 * 100 * sparse.std() / math.sqrt(2000)
    assert found.lo == pytest.approx(found.value - half, abs=0.15)
    assert found.hi == pytest.approx(found.value + half, abs=0.15)


def test_pairing_narrows_the_interval() -> None:
    dense = [1.0, 0.0] * 20
    paired = recovery(dense, dense)
    crossed = recovery(dense[::-1], dense)
    assert (paired.lo, paired.hi) == (100.0, 100.0)
    assert crossed.value == 100 and crossed.hi - crossed.lo > 20


def test_recovery_is_deterministic_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((2, 50))
    first = recovery(*scores.tolist())
    assert recovery(*scores.tolist()) == first
    monkeypatch.setattr("rr_bench.report.recovery._CHUNK", 700)
    assert recovery(*scores.tolist()) == first


def test_cells_count_alike_and_are_drawn_by_themselves() -> None:
    # Means 0.5 of 1 and 1 of 1, though the second cell has three times the samples.
    found = pooled([[(0.5, 1.0), (0.5, 1.0)], [(1.0, 1.0)] * 6])
    assert (found.n, found.sparse, found.dense, found.value) == (8, 75.0, 100.0, 75.0)
    # Nothing varies inside a cell: no draw differs, as it would if samples of both were mixed.
    assert (found.lo, found.hi) == (75.0, 75.0)
    # The first cell's draws give 0.5, 0.75 or 1 (1/4, 1/2, 1/4), each with the second cell's 1.
    found = pooled([[(0.5, 1.0), (1.0, 1.0)], [(1.0, 1.0)]])
    assert (found.value, found.lo, found.hi) == (87.5, 75.0, 100.0)
    with pytest.raises(ValueError, match="at least one sample"):
        pooled([[(1.0, 1.0)], []])


def test_undefined_recovery() -> None:
    zero = recovery([0.5, 0.0], [0.0, 0.0])
    assert math.isnan(zero.value) and math.isnan(zero.lo)
    single = recovery([0.5], [1.0])
    assert single.value == 50 and math.isnan(single.lo)
    rare = recovery([1.0, 0.0, 0.0], [1.0, 0.0, 0.0])  # 8 of 27 draws hold no dense score
    assert rare.value == 100 and math.isnan(rare.lo)
    with pytest.raises(ValueError, match="paired"):
        recovery([1.0], [1.0, 1.0])


def test_better_than_dense_is_shown_as_such() -> None:
    found = recovery([1.0] * 30, [1.0] * 20 + [0.0] * 10)
    assert found.value == pytest.approx(150) and found.lo > 100


def test_unequal_settings_are_named(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0], seed=43)
    versions = {"method": 2, "executor": 7, "model": 1, "task": 1, "prompts": 1, "scorer": 1}
    write_cell(tmp_path, FULL, [1.0], versions=versions, dtype="bfloat16")
    sparse = write_cell(tmp_path, RR, [1.0], density=0.5)
    cells = cells_of(tmp_path)
    (cell,) = [one for one in cells if one.info.key == sparse.info.key]
    with pytest.raises(ReportError, match=r"differs in seed: 42 \| 43"):
        Baselines(cells).of(cell)
    without = [one for one in cells if one.info.settings["seed"] == 42]
    with pytest.raises(ReportError, match=r"bfloat16; versions\.executor: 1 \| 7"):
        Baselines(without).of(cell)
    assert len(write_report(tmp_path).problems) == 1


def test_settings_of_the_method_itself_may_differ(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, [1.0])
    sparse = write_cell(tmp_path, RR, [1.0], backend="reference", keep=KEEP, dense_below=8192)
    cells = cells_of(tmp_path)
    (cell,) = [one for one in cells if one.info.key == sparse.info.key]
    assert Baselines(cells).of(cell).info.dense


def _videos(out: Path, method: dict, scores: list[float], clusters: list[str], **more) -> None:
    with open_cell(out, method) as cell:
        for uid, (score, cluster) in enumerate(zip(scores, clusters, strict=True)):
            made = record(str(uid), score, density=1.0 if method is FULL else 0.5)
            cell.append(replace(made, cluster=cluster, **more))
        cell.finish(len(scores))


def test_samples_of_one_cluster_are_one_unit(tmp_path: Path) -> None:
    # Three questions about video a, all lost; one about b, kept.
    _videos(tmp_path, FULL, [1.0, 1.0, 1.0, 1.0], ["a", "a", "a", "b"])
    _videos(tmp_path, RR, [0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    sparse, dense = sorted(cells_of(tmp_path), key=lambda one: one.info.dense)
    found = pooled([pair(sparse, dense)])
    assert (found.sparse, found.dense, found.value) == (25.0, 100.0, 25.0)
    # Draws: (a, a) gives 0, (a, b) 25, (b, b) 100; of four samples alone 0 and 75 would be the ends.
    assert (found.lo, found.hi) == (0.0, 100.0)


def test_a_prompt_that_failed_dense_may_have_been_another(tmp_path: Path) -> None:
    _videos(tmp_path, FULL, [1.0], ["a"])
    _videos(tmp_path, RR, [1.0], ["a"], prompt_sha="0" * 64)
    sparse, dense = sorted(cells_of(tmp_path), key=lambda one: one.info.dense)
    with pytest.raises(ReportError, match="prompt_sha differs"):
        pair(sparse, dense)
    (sample,) = dense.samples
    failed = replace(sample, score=None, error="a.mp4: there is no such file")
    assert not np.size(pair(sparse, replace(dense, samples=[failed])))


def test_intervals_together_are_the_intervals_of_each() -> None:
    """Groups share their draws; by hand, every draw is summed for itself."""
    rng = np.random.default_rng(1)
    groups = [
        [[(float(a), float(b)) for a, b in rng.random((size, 2))] for size in sizes]
        for sizes in ([7], [7], [5, 9], [7], [5, 9], [1])
    ]
    together = pooled_all(groups, 500)
    for cells, found in zip(groups, together, strict=True):
        assert astuple(pooled(cells, 500)) == pytest.approx(astuple(found), nan_ok=True)
        draws = np.random.default_rng(SEED)
        above, below = np.zeros(500), np.zeros(500)
        for pairs in cells:
            drawn = draws.integers(0, len(pairs), size=(500, len(pairs)))
            a, b = np.array(pairs).T
            above += len(cells[0]) / len(pairs) * a[drawn].sum(1)
            below += len(cells[0]) / len(pairs) * b[drawn].sum(1)
        if found.n > 1:
            ends = 100 * np.quantile(above / below, [0.025, 0.975])
            assert [found.lo, found.hi] == pytest.approx(ends)
