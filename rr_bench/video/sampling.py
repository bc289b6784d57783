"""Which frames of a video a model is shown: the rules of published evaluations, by name.

``slicer`` is the official Video-MME frame slicer's (look4u-ok/video-slicer), ``vlmeval`` VLMEvalKit's,
``lmms`` lmms-eval's, ``qwen`` qwen-vl-utils' (at a count, or at frames per second within bounds),
``hf2`` and ``hf3`` those of transformers' Qwen2-VL and Qwen3-VL video processors. ``all`` takes every
frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rr_bench.video.errors import NoVideo

RULES = ("slicer", "vlmeval", "lmms", "qwen", "hf2", "hf3", "all")
ROUNDINGS = ("floor", "round")
"""To an even count: ``floor`` since qwen-vl-utils 0.0.9, ``round`` in 0.0.8."""

FACTOR = 2
"""Frames of a temporal patch."""
MIN_FRAMES, MAX_FRAMES = 4, 768


@dataclass(frozen=True)
class Sampling:
    """A rule and how many frames it takes; either a count or a rate.

    Attributes:
        rule: one of :data:`RULES`.
        count: frames; None takes ``fps``.
        fps: frames per second of video (``qwen`` and ``hf3`` only).
        min_frames: fewest frames at a rate.
        max_frames: most frames at a rate; None: 768, or all of a shorter video.
        rounding: of ``qwen``, to an even number.
    """

    rule: str = "qwen"
    count: int | None = None
    fps: float | None = None
    min_frames: int = MIN_FRAMES
    max_frames: int | None = None
    rounding: str = "floor"

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"frame rule {self.rule!r}: one of {', '.join(RULES)}")
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"frame rounding {self.rounding!r}: one of {', '.join(ROUNDINGS)}")
        if self.rule == "all":
            return
        if (self.count is None) == (self.fps is None):
            raise ValueError("frames are sampled at a count or at frames per second: give one of them")
        if self.fps is not None and self.rule not in ("qwen", "hf3"):
            raise ValueError(f"frame rule {self.rule} takes a count of frames, not frames per second")
        if (self.fps or self.count or 0) <= 0:
            raise ValueError("frames are sampled at a count or rate above 0")

    def frames(self, total: int, fps: float) -> NDArray[np.int64]:
        """Indices of the frames shown, of a video of ``total`` frames at ``fps``.

        Raises:
            NoVideo: the video has too few frames for the rule.
        """
        return indices(self.rule, total, self.number(total, fps))

    def number(self, total: int, fps: float) -> int:
        """How many frames are shown.

        Raises:
            NoVideo: the video has too few frames for the rule.
        """
        if self.rule == "all":
            return total
        if self.rule == "hf3" and self.fps is not None:
            most = min(MAX_FRAMES if self.max_frames is None else self.max_frames, total)
            return min(max(int(total / fps * self.fps), self.min_frames), most)
        if self.rule != "qwen":
            assert self.count is not None
            return self.count
        if self.count is not None:
            number = round(self.count / FACTOR) * FACTOR
        else:
            assert self.fps is not None
            number = smart_frames(total, fps, self.fps, self.min_frames, self.max_frames, self.rounding)
        if not FACTOR <= number <= total:
            raise NoVideo(f"{total} frames are too few: rule qwen would take {number}, at least 2")
        return number


def smart_frames(
    total: int, fps: float, wanted: float, fewest: int, most: int | None, rounding: str
) -> int:
    """qwen-vl-utils' number of frames at a rate: clipped to its bounds, then made even."""
    fewest = -(-fewest // FACTOR) * FACTOR
    most = (min(MAX_FRAMES, total) if most is None else most) // FACTOR * FACTOR
    number = min(min(max(total / fps * wanted, fewest), most), total)
    pairs = round(number / FACTOR) if rounding == "round" else int(number // FACTOR)
    return pairs * FACTOR


def indices(rule: str, total: int, number: int) -> NDArray[np.int64]:
    """``number`` of ``total`` frames by a rule: int64 ``[number]``, ascending.

    ``slicer``, ``vlmeval`` and ``lmms`` repeat frames of a video that has fewer.

    Raises:
        NoVideo: the video has no frames, or too few for ``qwen``, ``hf2`` or ``hf3``.
    """
    if total < 1:
        raise NoVideo("the video has no frames")
    if rule in ("qwen", "hf2", "hf3") and number > total:
        raise NoVideo(f"{total} frames are too few: rule {rule} would take {number}")
    if rule == "all":
        return np.arange(total, dtype=np.int64)
    if rule == "slicer":
        edges = [round((total - 1) / number * i) for i in range(number + 1)]
        found = [(a + b) // 2 for a, b in pairwise(edges)]
    elif rule == "vlmeval":
        found = [int(i * (total / (number + 1))) for i in range(1, number + 1)]
    elif rule == "lmms":
        return np.linspace(0, total - 1, number, dtype=int).astype(np.int64)
    elif rule == "hf2":
        return np.arange(0, total, total / number).astype(np.int64)[:number]
    elif rule == "hf3":
        return np.rint(np.linspace(0, total - 1, number)).astype(np.int64)
    elif rule == "qwen":
        return np.rint(float32_steps(total - 1, number)).astype(np.int64)
    else:
        raise ValueError(f"frame rule {rule!r}: one of {', '.join(RULES)}")
    return np.array(found, dtype=np.int64)


def float32_steps(end: int, number: int) -> NDArray[np.float32]:
    """``torch.linspace(0, end, number)`` as torch computes it, from both ends to the middle."""
    step = np.float64(np.float32(end) / np.float32(max(number - 1, 1)))
    place = np.arange(number)
    # Multiplied and added in one step, rounded once: float64 holds such a product exactly.
    upper = np.float64(end) - step * (number - 1 - place)
    return np.where(place < max(number // 2, 1), step * place, upper).astype(np.float32)
