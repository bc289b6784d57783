"""Folders of frames that were taken out of a video before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rr_bench.tasks.files.video_mme import content_of, video_file
from rr_bench.video.errors import VideoError
from rr_bench.video.frame_set import FrameStore
from rr_bench.video.pixels import PixelRule
from rr_bench.video.sampling import Sampling
from tests import video_clips

ALL, OWN = Sampling("all"), PixelRule("none", factor=2)


def extracted(folder: Path, frames: int = 12, rate: str | None = '{"fps": 2.0}') -> Path:
    folder.mkdir()
    for number in range(frames):
        Image.fromarray(video_clips.picture(10 * number)).save(folder / f"frame_{number}.png")
    if rate is not None:
        (folder / "video.json").write_text(rate)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path / "cache")


def test_the_frames_are_those_of_the_folder_in_the_order_of_their_numbers(tmp_path, store):
    found = store.load(extracted(tmp_path / "clip"), ALL, OWN)
    wanted = [video_clips.picture(10 * number) for number in range(12)]
    np.testing.assert_array_equal(found.frames, wanted)
    assert found.seconds.tolist() == [number / 2 for number in range(12)]
    assert (found.fps, found.sample_fps, found.duration) == (2.0, 2.0, 6.0)
    assert found.decoder.startswith("images ")


def test_rules_choose_among_them_and_resize(tmp_path, store):
    pixels = PixelRule("fixed", height=28, width=56)
    found = store.load(extracted(tmp_path / "clip"), Sampling(count=4), pixels)
    assert found.indices.tolist() == [0, 4, 7, 11] and found.frames.shape == (4, 28, 56, 3)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "video.json").unlink(), "needs video.json"),
        (lambda folder: (folder / "video.json").write_text('{"fps": 0}'), "needs video.json"),
        (lambda folder: [path.unlink() for path in folder.glob("*.png")], "holds no images"),
        (lambda folder: (folder / "frame_3.png").write_bytes(b"no"), "frame_3.png cannot be read"),
        (
            lambda folder: Image.new("RGB", (8, 8)).save(folder / "frame_5.png"),
            "frame_5.png has another",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path, store, spoil, reason):
    folder = extracted(tmp_path / "clip")
    spoil(folder)
    with pytest.raises(VideoError, match=f"clip: .*{reason}"):
        store.load(folder, ALL, OWN)


def test_a_changed_image_is_another_video(tmp_path, store):
    folder = extracted(tmp_path / "clip")
    first, before = content_of(folder), store.load(folder, ALL, OWN)
    Image.fromarray(video_clips.picture(99)).save(folder / "frame_0.png")
    assert content_of(folder) != first
    assert store.load(folder, ALL, OWN).sha256 != before.sha256
    (folder / "video.json").write_text(json.dumps({"fps": 1}))
    assert store.load(folder, ALL, OWN).seconds[-1] == 11


def test_a_task_takes_a_folder_where_there_is_no_file(tmp_path):
    extracted(tmp_path / "a")
    extracted(tmp_path / "b")
    (tmp_path / "b.mkv").touch()
    assert video_file(tmp_path, "a") == tmp_path / "a"
    assert video_file(tmp_path, "b") == tmp_path / "b.mkv"
    assert video_file(tmp_path, "c") == tmp_path / "c.mp4"
