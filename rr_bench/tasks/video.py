"""From a row about a video to its frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.tasks.datasets.video_cards import clip_folder, write_clip

NEW_TOKENS = 16
"""Of an answer."""


@dataclass(frozen=True)
class ClipFrames:
    frames: NDArray[np.uint8]
    seconds: list[float]
    sample_fps: float
    sha256: str


def load_frames(doc: Mapping[str, Any]) -> ClipFrames:
    import decord

    path = write_clip(json.loads(doc["video"]), clip_folder())
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch(range(len(reader))).asnumpy()
    sha = hashlib.sha256(frames.tobytes()).hexdigest()
    return ClipFrames(frames, [i / 2 for i in range(len(frames))], 2.0, sha)
