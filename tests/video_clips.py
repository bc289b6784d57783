"""Small videos of every awkward kind, written by PyAV."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 96)
"""Height and width."""


def picture(number: int, height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    """A frame whose brightness says its number; the top left corner is white."""
    frame = np.full((height, width, 3), 20 + number * 3 % 200, np.uint8)
    frame[: height // 4, : width // 4] = 255
    return frame


def clip(path: Path, frames: int = 30, fps: int = 10, codec: str = "libx264") -> Path:
    """An ordinary clip; the suffix names the container."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        file.mux(stream.encode())
    return path


def variable_rate(path: Path) -> Path:
    """30 frames at 30 a second, then 30 at 5 a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 30)
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number if number < 30 else 30 + (number - 30) * 6
            frame.time_base = Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def audio_only(path: Path) -> Path:
    """One second of silence."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Degrees clockwise to a display matrix."""


def turned(source: Path, path: Path, degrees: int) -> Path:
    """A copy of an mp4 whose display matrix turns it clockwise."""
    data = bytearray(source.read_bytes())
    # In a track header (version 0) the matrix stands 40 bytes behind the type and the flags.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in TURNS[degrees])
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
