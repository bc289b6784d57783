"""Frame sets: real files of every awkward kind, decoders that hang, and the cache."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rr_bench.video import decode as decoding
from rr_bench.video.child import plain
from rr_bench.video.decode import decode
from rr_bench.video.errors import DecoderHung, NoVideo, VideoError
from rr_bench.video.frame_set import FrameStore
from rr_bench.video.pixels import PixelRule
from rr_bench.video.sampling import Sampling
from tests import video_clips
from tests.helmet_layout import SHARED, real

FOUR, SMALL = Sampling(count=4), PixelRule("fixed", height=28, width=56)
WHOLE = PixelRule("none", factor=2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return video_clips.clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def store(tmp_path):
    return FrameStore(tmp_path / "cache")


def test_a_frame_set(clip, store):
    found = store.load(clip, FOUR, WHOLE)
    assert found.frames.shape == (4, *video_clips.SIZE, 3) and found.frames.dtype == np.uint8
    assert found.indices.tolist() == [0, 10, 19, 29]
    np.testing.assert_allclose(found.seconds, [0, 1, 1.9, 2.9], atol=1e-6)
    assert (found.fps, found.total_frames, round(found.duration, 4)) == (10, 30, 3)
    assert found.sample_fps == pytest.approx(4 / 3)
    assert found.decoder.startswith("decord ") and found.passed_over == ()
    for number, frame in zip(found.indices, found.frames, strict=True):
        assert abs(int(frame[-2, -2, 0]) - int(video_clips.picture(number)[-2, -2, 0])) <= 4


def test_pyav_gives_the_same_frames(clip, tmp_path):
    found = [FrameStore(tmp_path, decoder=name).load(clip, FOUR, SMALL) for name in ("decord", "pyav")]
    np.testing.assert_array_equal(found[0].frames, found[1].frames)
    np.testing.assert_allclose(found[0].seconds, found[1].seconds, atol=1e-6)
    assert found[1].decoder.startswith("pyav ")


def test_repeated_frames_are_decoded_once(tmp_path, store):
    found = store.load(video_clips.clip(tmp_path / "c.mp4", 3), Sampling("lmms", count=6), WHOLE)
    assert found.indices.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(found.frames[0], found.frames[2])
    assert (found.frames[3] != found.frames[5]).any()


def test_times_come_from_the_stamps_of_a_variable_rate(tmp_path, store):
    found = store.load(video_clips.variable_rate(tmp_path / "v.mp4"), FOUR, SMALL)
    assert found.fps == pytest.approx(9.23, abs=0.01)
    assert found.seconds[-1] == pytest.approx(6.8, abs=1e-3)  # 6.39 by index and average


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_both_decoders_turn_a_rotated_video(clip, tmp_path, degrees):
    path = video_clips.turned(clip, tmp_path / "turned.mp4", degrees)
    for decoder in ("decord", "pyav"):
        found = FrameStore(tmp_path, decoder=decoder).load(path, FOUR, WHOLE)
        height, width = video_clips.SIZE
        assert found.frames.shape[1:3] == ((height, width) if degrees == 180 else (width, height))
        corner = {90: (2, -3), 180: (-3, -3), 270: (-3, 2)}[degrees]
        assert found.frames[0][corner].min() > 240 and found.rotation % 360 == 360 - degrees


def test_pyav_reads_what_decord_cannot(tmp_path, store):
    path = tmp_path / "av1.mp4"
    try:
        video_clips.clip(path, 8, codec="libsvtav1")
    except Exception as error:
        pytest.skip(f"this PyAV writes no AV1: {error}")
    found = store.load(path, FOUR, SMALL)
    assert found.decoder.startswith("pyav ")
    assert "decord: DECORDError" in found.passed_over[0] and "github" not in found.passed_over[0]


def broken(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "one_frame":
        video_clips.clip(path, 1)
    elif kind == "audio_only":
        video_clips.audio_only(path)
    elif kind == "truncated":
        path.write_bytes(video_clips.clip(path).read_bytes()[:2000])
    elif kind == "truncated_mkv":
        path = video_clips.clip(folder / "truncated_mkv.mkv", 300, 30)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "damaged":
        data = bytearray(video_clips.clip(path, 300, 30).read_bytes())
        at = data.index(b"mdat") + 800
        data[at : at + 1500] = b"\xff" * 1500
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("one_frame", "1 frames are too few"),
        ("audio_only", "no video stream"),
        ("truncated", "container cannot be read"),
        ("truncated_mkv", r"truncated: 10.0 s are declared"),
        ("damaged", "decord: .*; pyav: "),
    ],
)
def test_a_broken_video_is_named(tmp_path, store, kind, reason):
    path = broken(kind, tmp_path)
    with pytest.raises(VideoError, match=f"{path.name}: .*{reason}") as caught:
        store.load(path, Sampling("qwen", count=4), SMALL)
    assert str(tmp_path) not in str(caught.value)
    assert list(store.folder.iterdir()) == []


def test_a_failure_is_not_tried_twice(tmp_path, store, monkeypatch):
    path = broken("truncated", tmp_path)
    for _ in range(2):
        with pytest.raises(NoVideo, match="cannot be read"):
            store.load(path, FOUR, SMALL)
        monkeypatch.setattr(decoding, "CHILD", ["/nonexistent"])


STAND_IN = """
import json, os, sys, time
from pathlib import Path
request = json.loads(sys.argv[1])
if request["reader"] in {names}:
    Path({pids!r}).open("a").write(f"{{os.getpid()}} ")
    {fault}
from rr_bench.video.child import main
main()
"""


def stand_in(monkeypatch, tmp_path, names, fault="time.sleep(600)"):
    pids = tmp_path / "pids"
    code = STAND_IN.format(names=names, pids=str(pids), fault=fault)
    monkeypatch.setattr(decoding, "CHILD", [sys.executable, "-c", code])
    return pids


def test_a_decoder_that_hangs_is_killed_and_the_next_one_asked(clip, tmp_path, monkeypatch):
    pids = stand_in(monkeypatch, tmp_path, {"decord"})
    found = FrameStore(tmp_path, seconds=3).load(clip, FOUR, SMALL)
    assert found.decoder.startswith("pyav ")
    assert found.passed_over == ("decord: took more than 3 s and was killed",)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_all_decoders_hang(clip, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, {"decord", "pyav"})
    with pytest.raises(DecoderHung, match=r"clip\.mp4: decord: took .* killed; pyav: took .* killed"):
        FrameStore(tmp_path / "cache", seconds=1).load(clip, FOUR, SMALL)


def test_a_decoder_that_crashes(clip, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, {"decord"}, "os.abort()")
    facts = decode(clip, vars(FOUR), None, None)
    assert facts["passed_over"] == ["decord: the decoder's process ended with status -6"]


def test_messages_say_nothing_of_the_decoders_source():
    assert plain("[02:04:27] /a/b.cc:151: Check failed: x\n\nStack trace") == "Check failed: x"


def test_the_cache_is_read_and_mended(clip, store, monkeypatch):
    first = store.load(clip, FOUR, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "CHILD", ["/nonexistent"])
        again = FrameStore(store.folder).load(clip, FOUR, SMALL)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.sha256, first.decoder) == (again.sha256, again.decoder)
    (file,) = store.folder.glob("*.npy")
    for damage in (b"", file.read_bytes()[:-9], file.read_bytes()[:-1] + b"\x99"):
        file.write_bytes(damage)
        assert FrameStore(store.folder).load(clip, FOUR, SMALL).sha256 == first.sha256


def test_the_cache_tells_requests_apart(clip, store, tmp_path):
    other = video_clips.clip(tmp_path / "clip.mp4", 31)
    found = [
        store.load(clip, FOUR, SMALL),
        store.load(clip, FOUR, PixelRule("fixed", height=56, width=56)),
        store.load(clip, Sampling("lmms", count=4), SMALL),
        store.load(other, FOUR, SMALL),
        FrameStore(store.folder, decoder="pyav").load(clip, FOUR, SMALL),
    ]
    assert len(list(store.folder.glob("*.npy"))) == len(found)


def test_the_cache_has_a_bound(clip, tmp_path):
    size = 4 * 28 * 56 * 3 + 128
    store = FrameStore(tmp_path / "cache", limit=2 * size)
    for number in (4, 6, 8, 4):
        store.load(clip, Sampling(count=number), SMALL)
    kept = sorted(file.stat().st_size for file in store.folder.glob("*.npy"))
    assert kept == [size]  # with the set of eight there is no room for it
    store.load(clip, Sampling(count=30), SMALL)
    (file,) = store.folder.glob("*.npy")
    assert file.stat().st_size > store.limit  # what was just made stays
    assert json.loads(file.with_suffix(".json").read_text())["total_frames"] == 30


def test_what_a_killed_process_left_goes(clip, store):
    store.folder.mkdir()
    for name, age in (("old.partial.npy", 2 * 24 * 3600), ("new.partial.npy", 60)):
        (store.folder / name).write_bytes(b"x")
        os.utime(store.folder / name, (time.time() - age,) * 2)
    store.load(clip, FOUR, SMALL)
    assert [file.name for file in store.folder.glob("*partial*")] == ["new.partial.npy"]


def test_a_decoder_ends_itself_when_nobody_waits(clip, monkeypatch):
    code = "import rr_bench.video.child as c, time\nc.GRACE = 0\n"
    code += "c.sample = lambda request: time.sleep(60)\nc.main()"
    monkeypatch.setattr(decoding, "CHILD", [sys.executable, "-c", code])
    request = {"path": str(clip), "limit": 0.5}
    assert "ended with status -14" in decoding._ask(request, 30)["error"]


def test_facts_need_no_frames(clip, store):
    found = store.sampled(clip, FOUR)
    assert found.indices.tolist() == [0, 10, 19, 29]
    assert list(store.folder.glob("*.npy")) == []


@real
def test_real_clips(store):
    clips = sorted((SHARED / "video").glob("*.mp4"))
    assert len(clips) == 3
    for path in clips:
        found = store.load(
            path, Sampling(fps=0.25), PixelRule("qwen_0.0.8", max_pixels=50176, min_pixels=784)
        )
        assert len(found.frames) % 2 == 0 and found.frames.std() > 10
        assert found.seconds[-1] < found.duration


MEANS = {
    "bbb_480p_30s": [0.0, 203.7, 152.84, 109.23, 158.21, 172.55, 94.67, 83.15],
    "bottle-detection": [146.72, 145.66, 152.72, 143.56, 145.1, 144.7, 148.57, 152.68],
    "car-detection": [114.37, 115.06, 100.44, 113.75, 94.95, 113.65, 117.61, 109.27],
}
"""Mean values of the frames that ``lmms`` takes eight of, by decord 0.6.0."""


@real
@pytest.mark.parametrize("name", MEANS)
def test_frames_of_real_clips_are_the_recorded_ones(name, store):
    found = store.load(SHARED / "video" / f"{name}.mp4", Sampling("lmms", count=8), WHOLE)
    np.testing.assert_allclose(found.frames.mean((1, 2, 3)), MEANS[name], atol=0.006)


LOADER = """
import sys
from pathlib import Path
from rr_bench.video.frame_set import FrameStore
from rr_bench.video.pixels import PixelRule
from rr_bench.video.sampling import Sampling
folder, clip, limit = sys.argv[1:]
store = FrameStore(Path(folder), limit=int(limit))
for count in (4, 8, 4):
    print(store.load(Path(clip), Sampling(count=count), PixelRule("fixed", height=28, width=56)).sha256)
"""


def test_processes_share_a_cache_that_is_too_small(clip, tmp_path):
    command = [sys.executable, "-c", LOADER, str(tmp_path / "cache"), str(clip), "1"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1] and len(told[0]) == 3 and told[0][0] == told[0][2]
    assert not list((tmp_path / "cache").glob("*.partial*"))
