"""What a video's container says, without decoding more than its first frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rr_bench.video.errors import NoVideo


@dataclass(frozen=True)
class Container:
    """A video's packets and labels.

    Attributes:
        starts: of the frames in seconds, ascending, float64 ``[frames]``.
        fps: average frames per second.
        declared: duration of the video in seconds as the header has it, or None.
        rotation: degrees counter-clockwise by which frames are turned to be shown, a multiple of 90.
    """

    starts: NDArray[np.float64]
    fps: float
    declared: float | None
    rotation: int


def read_container(path: Path) -> Container:
    """Read the packets of a video's first video stream.

    Raises:
        NoVideo: there is no file, it is empty or cannot be read, or it has no video.
    """
    import av

    if not path.is_file():
        raise NoVideo("there is no such file")
    if path.stat().st_size == 0:
        raise NoVideo("the file is empty")
    try:
        with av.open(str(path)) as file:
            if len(file.streams) == 0:
                raise NoVideo("the container cannot be read: it holds no streams")
            if not file.streams.video:
                raise NoVideo("the file has no video stream")
            stream = file.streams.video[0]
            base = float(stream.time_base or 0)
            stamps = sorted(packet.pts for packet in file.demux(stream) if packet.pts is not None)
            rate = float(stream.average_rate or 0)
            declared = _declared(stream.duration, base, file.duration, av.time_base)
    except av.error.FFmpegError as error:
        raise NoVideo(f"the container cannot be read: {error.strerror}") from error
    starts = np.array(stamps, dtype=np.float64) * base
    if len(starts):
        starts -= starts[0]
    if rate <= 0 and len(starts) > 1:
        rate = (len(starts) - 1) / float(starts[-1])
    return Container(starts, rate, declared, _rotation(path))


def _declared(ticks: int | None, base: float, whole: int | None, unit: int) -> float | None:
    """The stream's own duration if it has one, else the file's."""
    if ticks is not None:
        return ticks * base
    return None if whole is None else whole / unit


def _rotation(path: Path) -> int:
    """Of the first frame's display matrix; 0 where that frame cannot be decoded."""
    import av

    try:
        with av.open(str(path)) as file:
            frame = next(file.decode(file.streams.video[0]), None)
            return 0 if frame is None else round(frame.rotation / 90) * 90
    except av.error.FFmpegError:
        return 0
