"""Video-MME from a user's folder to the table: ordinary and broken videos, three families of models."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rr_bench.run.run import run
from rr_bench.store.records import SampleRecord
from tests import video_clips
from tests.configured import settings
from tests.fabricate import cells_of
from tests.helmet_layout import SHARED, real
from tests.tiny_vision import FAMILIES, tiny_vision
from tests.video_mme_layout import question, write_questions

SMALL = {"frames": 4, "pixel_rule": "fixed", "frame_height": 224, "frame_width": 224}
"""256 or 98 video tokens, by the family."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three good videos and six that are not."""
    folder = tmp_path_factory.mktemp("videos")
    good = video_clips.clip(folder / "good.mp4")
    video_clips.variable_rate(folder / "variable.mp4")
    video_clips.turned(good, folder / "turned.mp4", 90)
    video_clips.audio_only(folder / "audio.mp4")
    video_clips.clip(folder / "one_frame.mp4", 1)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(good.read_bytes()[:1500])
    stems = ("audio", "good", "one_frame", "variable", "empty", "turned", "cut", "missing")
    rows = [
        question(f"{number:03d}", stem, which) for number, stem in enumerate(stems) for which in (1, 2)
    ]
    write_questions(folder / "questions.jsonl", rows)
    return folder


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("RR_BENCH_CACHE", str(tmp_path / "cache"))

    def made(model: Path, videos: Path, data: dict, **changes):
        given = {
            "out": str(tmp_path / "out"),
            "model": {"path": str(model)},
            "methods": ["full", {"name": "rr", "tau": 0.5, "stride": 8}],
            "tasks": ["videomme_short"],
            "lengths": [512],
            "samples": 100,
        }
        given |= {"data": {"video_dir": str(videos), **SMALL, **data}}
        return settings(**{**given, **changes})

    return made


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory) -> Path:
    return tiny_vision(tmp_path_factory.mktemp("model") / "qwen2_vl", "qwen2_vl")


def samples(out: str) -> list[list[SampleRecord]]:
    return [cell.samples for cell in cells_of(out)]


@pytest.fixture(scope="module")
def decoded(tmp_path_factory) -> Path:
    """Cache of the real clips."""
    return tmp_path_factory.mktemp("decoded")


@pytest.fixture
def unreported(monkeypatch):
    """Nothing is drawn."""
    monkeypatch.setattr("rr_bench.run.run._report", lambda *given: None)


REASONS = {
    "audio": "the file has no video stream",
    "one_frame": "1 frames are too few: rule qwe",
    "empty": "the file is empty",
    "cut": "the container cannot be read: ",
    "missing": "there is no such file",
}


def test_broken_videos_are_named_failures_and_the_others_are_scored(make, qwen2, videos):
    made = make(qwen2, videos, {})
    assert run(made) == 1  # something failed
    for found in samples(made.out):
        assert len(found) == 16
        failed = {one.error for one in found if one.score is None}
        assert sorted(error.partition(": ")[2][:30] for error in failed) == sorted(REASONS.values())
        assert {error.partition(".")[0] for error in failed} == set(REASONS)
        scored = [one for one in found if one.score is not None]
        assert {one.cluster for one in scored} == {"001", "003", "005"}
        for one in scored:
            assert one.video["decoder"].startswith("decord") and one.video["tokens"] == 128
            assert one.video["frames"] == 4 and len(one.video["sha256"]) == 64
            assert one.argmax_letter in "ABCD" and one.answered == (one.letter is not None)
            assert one.score == float([one.letter] == one.golds)
        assert all(one.labels["duration"] == "short" and one.cluster for one in found)
    table = pd.read_csv(Path(made.out) / "summary.csv")
    assert set(table["n"]) == {6} and set(table["failed"]) == {10}


def test_a_video_that_comes_later_is_scored_then(make, qwen2, videos, tmp_path, unreported):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_questions(folder / "q.jsonl", [question("1", "late", 1)])
    made = make(qwen2, folder, {}, methods=["full"])
    assert run(made) == 1
    (folder / "late.mp4").write_bytes((videos / "good.mp4").read_bytes())
    assert run(made) == 0
    ((sample,),) = samples(made.out)
    assert sample.error is None and sample.video["frames"] == 4


def test_another_video_in_its_place_is_refused(make, qwen2, videos, tmp_path, capsys, unreported):
    folder = tmp_path / "videos"
    folder.mkdir()
    rows = [question("1", "a", 1), question("1", "a", 2)]
    write_questions(folder / "q.jsonl", rows)
    (folder / "a.mp4").write_bytes((videos / "good.mp4").read_bytes())
    assert run(make(qwen2, folder, {}, methods=["full"], samples=1)) == 0
    (folder / "a.mp4").write_bytes((videos / "variable.mp4").read_bytes())
    assert run(make(qwen2, folder, {}, methods=["full"], samples=2)) == 1
    assert "has another prompt than the task makes now" in capsys.readouterr().err


def test_too_many_tokens_are_a_named_failure(make, qwen2, videos, tmp_path, unreported):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_questions(folder / "q.jsonl", [question("1", "good", 1)])
    (folder / "good.mp4").write_bytes((videos / "good.mp4").read_bytes())
    made = make(qwen2, folder, {"frames": 20}, methods=["full"])
    assert run(made) == 1
    ((sample,),) = samples(made.out)
    assert sample.error == (
        "good.mp4: 20 frames of 224 x 224 are 640 tokens, more than lengths=512: raise it, or lower "
        "data.max_frames or data.max_pixels"
    )


@real
@pytest.mark.parametrize("family", FAMILIES)
def test_real_clips_with_every_family(make, tmp_path, family, unreported, decoded, monkeypatch):
    monkeypatch.setenv("RR_BENCH_CACHE", str(decoded))
    model = tiny_vision(tmp_path / family, family)
    methods = ["full", {"name": "streaming", "window": 128}]
    made = make(model, SHARED / "video", {"frames": 8}, lengths=[1024], methods=methods)
    assert run(made) == 0
    dense, sparse = samples(made.out)
    assert len(dense) == len(sparse) == 4
    assert {one.video["sha256"] for one in dense} == {one.video["sha256"] for one in sparse}
    assert all(one.density == 1 for one in dense) and all(0 < one.density < 1 for one in sparse)
