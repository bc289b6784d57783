"""From a row about a video to its frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.tasks.datasets.video_cards import FPS, clip_folder, write_clip
from rr_bench.video.clips import read_every_frame

NEW_TOKENS = 16
"""Of an answer."""


@dataclass(frozen=True)
class ClipFrames:
    """Sampled frames."""

    frames: NDArray[np.uint8]
    seconds: list[float]
    sample_fps: float
    sha256: str


def load_frames(doc: Mapping[str, Any]) -> ClipFrames:
    """Write the row's clip if it is not there, and read all its frames."""
    path = write_clip(json.loads(doc["video"]), clip_folder())
    frames = read_every_frame(path)
    sha = hashlib.sha256(frames.tobytes()).hexdigest()
    return ClipFrames(frames, [number / FPS for number in range(len(frames))], float(FPS), sha)
