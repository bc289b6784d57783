"""Which frames, and how large: numbers taken from the original implementations."""

import numpy as np
import pytest

from rr_bench.video.errors import VideoError
from rr_bench.video.pixels import PixelRule, clip_resize, smart_resize, video_tokens
from rr_bench.video.sampling import Sampling, indices

EIGHT = {
    "slicer": ([6, 18, 31, 43, 56, 68, 80, 93], [18, 56, 93, 131, 168, 205, 243, 280]),
    "vlmeval": ([11, 22, 33, 44, 55, 66, 77, 88], [33, 66, 100, 133, 166, 200, 233, 266]),
    "lmms": ([0, 14, 28, 42, 56, 70, 84, 99], [0, 42, 85, 128, 170, 213, 256, 299]),
    "qwen": ([0, 14, 28, 42, 57, 71, 85, 99], [0, 43, 85, 128, 171, 214, 256, 299]),
    "hf3": ([0, 14, 28, 42, 57, 71, 85, 99], [0, 43, 85, 128, 171, 214, 256, 299]),
}


@pytest.mark.parametrize("rule", EIGHT)
def test_eight_frames_by_every_rule(rule):
    for total, wanted in zip((100, 300), EIGHT[rule], strict=True):
        assert indices(rule, total, 8).tolist() == wanted


def test_hf2_steps_from_the_first_frame():
    assert indices("hf2", 100, 8).tolist() == [0, 12, 25, 37, 50, 62, 75, 87]


def test_qwen_rounds_in_float32():
    assert 99552 in indices("qwen", 108001, 768) and 99551 not in indices("qwen", 108001, 768)
    assert 99551 in indices("hf3", 108001, 768)


def test_qwen_is_torch_linspace():
    torch = pytest.importorskip("torch")
    for total, number in ((108001, 768), (108000, 768), (99999, 500), (12345, 77), (5, 4), (9, 1)):
        wanted = torch.linspace(0, total - 1, number).round().long().tolist()
        assert indices("qwen", total, number).tolist() == wanted


def test_a_short_video_repeats_frames_or_is_an_error():
    for rule in ("slicer", "vlmeval", "lmms"):
        assert len(indices(rule, 3, 8)) == 8 and set(indices(rule, 3, 8)) <= {0, 1, 2}
    for rule in ("qwen", "hf2", "hf3"):
        with pytest.raises(VideoError, match="3 frames are too few"):
            indices(rule, 3, 8)
    with pytest.raises(VideoError, match="no frames"):
        indices("lmms", 0, 8)


AT_A_RATE = [
    # frames, fps, request, number, first indices, last, sampled fps
    (300, 30, {"fps": 2}, 20, [0, 16, 31, 47], 299, 2.0),
    (300, 29.97, {"fps": 2}, 20, [0, 16, 31, 47], 299, 1.998),
    (645, 30, {"fps": 2, "rounding": "round"}, 44, [0, 15, 30, 45], 644, 2.047),
    (645, 30, {"fps": 2}, 42, [0, 16, 31, 47], 644, 1.953),
    (3000, 29.97, {"fps": 1}, 100, [0, 30, 61, 91], 2999, 0.999),
    (90, 30, {"fps": 1}, 4, [0, 30, 59, 89], 89, 1.333),
    (45, 30, {"fps": 1}, 4, [0, 15, 29, 44], 44, 2.667),
    (7, 30, {"fps": 2}, 4, [0, 2, 4, 6], 6, 17.143),
    (3, 30, {"fps": 2}, 2, [0, 2], 2, 20.0),
    (108000, 30, {"fps": 1}, 768, [0, 141, 282, 422], 107999, 0.213),
    (108000, 30, {"fps": 2, "max_frames": 512}, 512, [0, 211, 423, 634], 107999, 0.142),
    (108000, 30, {"fps": 2, "max_frames": 2048}, 2048, [0, 53, 106, 158], 107999, 0.569),
    (18000, 30, {"fps": 0.5}, 300, [0, 60, 120, 181], 17999, 0.5),
    (125, 25, {"fps": 1}, 4, [0, 41, 83, 124], 124, 0.8),
    (10, 2, {"fps": 4}, 10, [0, 1, 2, 3], 9, 2.0),
]


@pytest.mark.parametrize(("total", "fps", "request_", "number", "first", "last", "sampled"), AT_A_RATE)
def test_qwen_at_frames_per_second(total, fps, request_, number, first, last, sampled):
    found = Sampling(**request_).frames(total, fps)
    assert len(found) == number == Sampling(**request_).number(total, fps)
    assert found[: len(first)].tolist() == first and found[-1] == last
    assert round(len(found) / total * fps, 3) == sampled


def test_qwen_at_a_count():
    assert Sampling(count=33).number(1000, 25) == 32
    for sampling, total, fps in ((Sampling(count=32), 20, 25), (Sampling(fps=2), 1, 30)):
        with pytest.raises(VideoError, match="too few"):
            sampling.frames(total, fps)


def test_hf3_at_a_rate_is_not_made_even():
    assert Sampling("hf3", fps=2).number(645, 30) == 43
    assert Sampling("hf3", fps=2).number(3, 30) == 3
    assert Sampling("hf3", fps=2).number(10**6, 30) == 768


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "mean", "count": 8}, "one of slicer, vlmeval"),
        ({}, "give one of them"),
        ({"count": 8, "fps": 1.0}, "give one of them"),
        ({"rule": "lmms", "fps": 1.0}, "takes a count"),
        ({"fps": 1.0, "rounding": "up"}, "one of floor, round"),
        ({"count": -2}, "above 0"),
    ],
)
def test_impossible_samplings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**given)


BOUNDS = (28, 100352, 602112)


@pytest.mark.parametrize(
    ("height", "width", "bounds", "wanted"),
    [
        (720, 1280, BOUNDS, (560, 1008)),
        (720, 1280, (28, 100352, 105369), (224, 420)),
        (1280, 720, BOUNDS, (1008, 560)),
        (1080, 1920, BOUNDS, (560, 1008)),
        (360, 640, BOUNDS, (364, 644)),
        (240, 320, BOUNDS, (280, 392)),
        (100, 50, BOUNDS, (448, 224)),
        (20, 1000, BOUNDS, (56, 2240)),
        (448, 448, BOUNDS, (448, 448)),
        (480, 854, (28, 200704, 1605632), (476, 840)),
    ],
)
def test_smart_resize(height, width, bounds, wanted):
    assert smart_resize(height, width, *bounds) == wanted


def test_a_ribbon_is_no_video():
    with pytest.raises(VideoError, match="over 200 times"):
        smart_resize(10, 2010, *BOUNDS)


@pytest.mark.parametrize(
    ("frames", "height", "width", "low", "high", "wanted"),
    [
        (64, 720, 1280, 4096, 25165824, (448, 832)),
        (768, 720, 1280, 4096, 25165824, (128, 224)),
        (32, 1080, 1920, 131072, 786432, (96, 192)),
        (16, 360, 640, 131072, 786432, (160, 288)),
    ],
)
def test_the_clip_has_a_budget(frames, height, width, low, high, wanted):
    assert clip_resize(frames, height, width, 32, low, high) == wanted
    assert PixelRule("clip", 32, low, high).size(frames, height, width) == wanted


TOKENS = {
    # frames: tokens of a patch in 0.0.8, in 0.0.14, tokens of the clip at 448 x 448
    32: (720, 720, 4096),
    64: (720, 720, 8192),
    128: (364, 720, 16384),
    256: (180, 720, 32768),
    384: (120, 576, 49152),
    768: (120, 276, 98304),
    1024: (120, 220, 131072),
}


@pytest.mark.parametrize("frames", TOKENS)
def test_tokens_of_720p(frames):
    old, new, fixed = TOKENS[frames]
    for rule, factor, wanted in (
        ("qwen_0.0.8", 28, old),
        ("qwen_0.0.14", 28, new),
        ("qwen_0.0.14", 32, new),
    ):
        size = PixelRule(rule, factor).size(frames, 720, 1280)
        assert video_tokens(2, *size, factor) == wanted
        assert video_tokens(frames, *size, factor) == wanted * frames // 2
    square = PixelRule("fixed", height=448, width=448).size(frames, 720, 1280)
    assert video_tokens(frames, *square, 28) == fixed


def test_a_given_maximum_replaces_or_lowers():
    assert PixelRule("qwen_0.0.8", max_pixels=1605632).size(1024, 720, 1280) == (728, 1288)
    assert PixelRule("qwen_0.0.14", max_pixels=1605632).size(32, 720, 1280) == (560, 1008)
    assert PixelRule("qwen_0.0.14", max_pixels=105369).size(32, 720, 1280) == (224, 420)


def test_frames_keep_their_size_or_get_one():
    assert PixelRule("none").size(8, 57, 113) == (56, 112)
    for given in ({"rule": "square"}, {"rule": "fixed"}, {"rule": "fixed", "height": 50, "width": 56}):
        with pytest.raises(ValueError, match="pixel rule"):
            PixelRule(**given)


def test_indices_ascend_inside_the_video():
    for rule in EIGHT:
        for total in (8, 9, 31, 1000):
            found = indices(rule, total, 8)
            assert (np.diff(found) >= 0).all() and found[0] >= 0 and found[-1] < total
