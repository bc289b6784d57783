"""Frames to an ordinary mp4 file (H.264, 4:2:0), by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

QUALITY = "12"
"""x264's constant rate factor: visually lossless."""


def write_video(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Write a video; whoever reads the path sees the whole file or none.

    Args:
        path: of the file; its folder is made.
        frames: uint8 ``[frames, H, W, 3]``, both sides even.
        fps: frames per second.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{uuid4().hex}.partial.mp4")
    try:
        with av.open(str(partial), "w") as file:
            stream = file.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            # One thread: the same bytes on every machine with this library.
            stream.options = {"crf": QUALITY, "preset": "veryfast", "threads": "1"}
            for frame in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
