"""How large a frame becomes, and how many tokens that is.

Rules of Qwen's models: :func:`smart_resize` rounds both sides to a language token's and keeps the area
within bounds; qwen-vl-utils bounds each frame by what all frames share, the processors of transformers
bound the whole clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rr_bench.video.errors import NoVideo

RULES = ("qwen_0.0.8", "qwen_0.0.14", "clip", "fixed", "none")
"""``qwen_<version of qwen-vl-utils>``, ``clip`` (Qwen3-VL's own processor), one size for all, or the
video's own rounded down."""

MAX_RATIO = 200
MIN_TOKENS, MAX_TOKENS = 128, 768
"""Language tokens of one temporal patch, in qwen-vl-utils."""
TOTAL_008 = 24576 * 28 * 28
TOTAL_TOKENS_014 = 0.9 * 128_000
CLIP_MIN, CLIP_MAX = 131_072, 786_432
"""Defaults of Qwen3-VL's processor: pixels of a whole clip."""


@dataclass(frozen=True)
class PixelRule:
    """How large frames become.

    Attributes:
        rule: one of :data:`RULES`.
        factor: pixels of a language token's side: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL.
        min_pixels: of a frame (``qwen_*``) or of the clip (``clip``); None: the rule's own.
        max_pixels: the same; in ``qwen_0.0.8`` it replaces the rule's, in ``qwen_0.0.14`` it lowers it.
        height: of ``fixed``.
        width: of ``fixed``.
    """

    rule: str = "qwen_0.0.14"
    factor: int = 28
    min_pixels: int | None = None
    max_pixels: int | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"pixel rule {self.rule!r}: one of {', '.join(RULES)}")
        sides = (self.height, self.width)
        if self.rule == "fixed" and not all(side and side % self.factor == 0 for side in sides):
            raise ValueError(
                f"pixel rule fixed needs height and width in multiples of {self.factor}, got {sides}"
            )

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frames of a clip.

        Args:
            frames: how many are shown.
            height: of the video.
            width: of the video.

        Raises:
            NoVideo: the video is more than 200 times as long as wide.
        """
        f = self.factor
        if self.rule == "fixed":
            assert self.height and self.width
            return self.height, self.width
        if self.rule == "none":
            return max(f, height // f * f), max(f, width // f * f)
        if self.rule == "clip":
            low = CLIP_MIN if self.min_pixels is None else self.min_pixels
            high = CLIP_MAX if self.max_pixels is None else self.max_pixels
            return clip_resize(frames, height, width, f, low, high)
        low = MIN_TOKENS * f * f if self.min_pixels is None else self.min_pixels
        return smart_resize(height, width, f, low, self._most(frames, low))

    def _most(self, frames: int, low: int) -> int:
        """Most pixels of one frame by qwen-vl-utils."""
        f = self.factor
        old = self.rule == "qwen_0.0.8"
        total = TOTAL_008 if old else TOTAL_TOKENS_014 * f * f
        high = int(max(min(MAX_TOKENS * f * f, total / frames * 2), int(low * 1.05)))
        if self.max_pixels is None:
            return high
        return self.max_pixels if old else min(self.max_pixels, high)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The nearest size in multiples of ``factor`` with an area within bounds, close to the same shape.

    Raises:
        NoVideo: one side is more than 200 times the other.
    """
    _check_shape(height, width)
    h = max(factor, round(height / factor) * factor)
    w = max(factor, round(width / factor) * factor)
    return _bounded(h * w, height * width, (h, w), (height, width), factor, min_pixels, max_pixels)


def clip_resize(
    frames: int, height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The same with bounds on the pixels of all frames together, as Qwen3-VL's processor has them.

    Raises:
        NoVideo: one side is more than 200 times the other.
    """
    _check_shape(height, width)
    h, w = (max(factor, round(side / factor) * factor) for side in (height, width))
    depth = -(-frames // 2) * 2
    return _bounded(
        depth * h * w,
        frames * height * width,
        (h, w),
        (height, width),
        factor,
        min_pixels,
        max_pixels,
    )


def _check_shape(height: int, width: int) -> None:
    if max(height, width) > MAX_RATIO * min(height, width):
        raise NoVideo(f"frames of {height} x {width}: one side is over {MAX_RATIO} times the other")


def _bounded(
    rounded: int,
    real: int,
    size: tuple[int, int],
    sides: tuple[int, int],
    factor: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """Sides scaled so that the area fits; ``rounded`` is compared, ``real`` gives the scale."""
    if rounded > max_pixels:
        beta = math.sqrt(real / max_pixels)
        h, w = (max(factor, math.floor(side / beta / factor) * factor) for side in sides)
    elif rounded < min_pixels:
        beta = math.sqrt(min_pixels / real)
        h, w = (math.ceil(side * beta / factor) * factor for side in sides)
    else:
        h, w = size
    return h, w


def video_tokens(frames: int, height: int, width: int, factor: int) -> int:
    """Language tokens of a clip; an odd last frame is repeated."""
    return -(-frames // 2) * (height // factor) * (width // factor)
