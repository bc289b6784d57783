"""From a row about a video to its frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rr_bench.tasks.datasets.video_cards import clip_folder, write_clip
from rr_bench.tasks.settings import DataSettings
from rr_bench.tasks.video_settings import PREFIX
from rr_bench.video.errors import VideoError
from rr_bench.video.frame_set import FrameSet, FrameStore, Sampled
from rr_bench.video.pixels import PixelRule, video_tokens
from rr_bench.video.sampling import MIN_FRAMES, Sampling

NEW_TOKENS = 16
"""Of an answer."""
FACTOR = 28
"""Pixels of a language token's side in Qwen2-VL and Qwen2.5-VL."""


SHORTEST = {"short": 0, "medium": 120, "long": 900}
"""Seconds: half of what the shortest videos of Video-MME's classes last."""


class VideoFrames:
    """Frames of rows, by the settings' rules.

    Args:
        data: which frames, how large, decoded by what and kept where.
        factor: pixels of a language token's side in the model's family.

    Raises:
        ValueError: the rules do not fit each other.
    """

    def __init__(self, data: DataSettings, factor: int = FACTOR) -> None:
        self.data, self.factor = data, factor
        folder = data.path("video_cache") or clip_folder().parent / "frames"
        self.store = FrameStore(
            folder,
            limit=int(data.video_cache_gb * 2**30),
            decoder=data.video_decoder,
            seconds=data.decode_seconds,
        )

    def load(self, doc: Mapping[str, Any]) -> FrameSet:
        """The frames of a row's video.

        Raises:
            VideoError: it has none that can be used, it lasts far less than its class, or its frames
                make more tokens than the row's length.
        """
        video = json.loads(doc["video"])
        if not doc["dataset"].startswith(PREFIX):
            clip = write_clip(video, clip_folder())
            return self.store.load(clip, Sampling("all"), PixelRule("none", factor=self.factor))
        length = int(doc["length"])
        path = Path(video["file"])
        found = self.store.load(path, self.sampling(length), self.pixels())
        shortest = SHORTEST[doc["dataset"].removeprefix(PREFIX)]
        if found.duration < shortest:
            raise VideoError(
                f"{path.name} lasts {found.duration:.0f} s, too short for its duration class: "
                "truncated?"
            )
        count, height, width = found.frames.shape[:3]
        tokens = video_tokens(count, height, width, self.factor)
        if tokens > length:
            raise VideoError(
                f"{path.name}: {count} frames of {height} x {width} are {tokens} tokens, more than "
                f"lengths={length}: raise it, or lower data.max_frames or data.max_pixels"
            )
        return found

    def sampled(self, path: Path, length: int) -> Sampled:
        """Which frames of a video those are.

        Raises:
            VideoError: as :meth:`load`.
        """
        return self.store.sampled(path, self.sampling(length))

    def sampling(self, length: int) -> Sampling:
        """Which frames ``data`` asks for."""
        data = self.data
        count = data.frames
        if count is None and data.fps is None:
            count = self._filling(length)
        return Sampling(
            data.frame_rule,
            count=count,
            fps=data.fps if count is None else None,
            min_frames=MIN_FRAMES if data.min_frames is None else data.min_frames,
            max_frames=data.max_frames,
            rounding=data.frame_rounding,
        )

    def pixels(self) -> PixelRule:
        """How large ``data`` asks them to be."""
        data = self.data
        return PixelRule(
            data.pixel_rule,
            self.factor,
            min_pixels=data.min_pixels,
            max_pixels=data.max_pixels,
            height=data.frame_height,
            width=data.frame_width,
        )

    def _filling(self, length: int) -> int:
        """Frames of the fixed size that make ``length`` tokens."""
        height, width = self.data.frame_height, self.data.frame_width
        if self.data.pixel_rule != "fixed" or not height or not width:
            raise ValueError(
                "data.frames=null and data.fps=null fill the length with frames of one size: "
                "set data.pixel_rule=fixed, data.frame_height and data.frame_width"
            )
        return 2 * (length // video_tokens(2, height, width, self.factor))
