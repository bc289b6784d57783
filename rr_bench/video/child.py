"""Decodes one video and ends; run by :mod:`rr_bench.video.decode` in a process of its own.

A decoder can hang in native code or crash, and must not take the run with it. The request is one JSON
object on the command line; the answer one JSON object on standard output, with the frames in a file.
"""

from __future__ import annotations

import json
import math
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rr_bench.video.container import Container, read_container
from rr_bench.video.errors import NoVideo, VideoError
from rr_bench.video.images import Images
from rr_bench.video.pixels import PixelRule
from rr_bench.video.resize import resize
from rr_bench.video.sampling import Sampling

CHUNK = 16
"""Frames held at full size."""
SHORTER = 0.9
"""Of the declared duration; a video that ends before it was cut."""

GRACE = 5
"""Seconds beyond the limit after which the process ends without being killed."""

Frame = NDArray[np.uint8]


class Decord:
    """Frames by decord: exact seeks, one thread, turned as the display matrix says."""

    def __init__(self, path: Path) -> None:
        import decord

        # Any frame that decord would replace by its predecessor is an error.
        self._reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-9)
        self.total = len(self._reader)
        self.fps = float(self._reader.get_avg_fps())

    def seconds(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Start of each frame."""
        return np.asarray(self._reader.get_frame_timestamp(indices.tolist()), np.float64)[:, 0]

    def frames(self, indices: NDArray[np.int64]) -> Iterator[Frame]:
        """The frames of ascending indices, uint8 ``[H, W, 3]`` each."""
        for start in range(0, len(indices), CHUNK):
            yield from self._reader.get_batch(indices[start : start + CHUNK].tolist()).asnumpy()


class PyAV:
    """Frames by PyAV: from the beginning, without seeks."""

    def __init__(self, path: Path, container: Container) -> None:
        self._path, self._starts, self._rotation = path, container.starts, container.rotation
        self.total, self.fps = len(container.starts), container.fps

    def seconds(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Start of each frame."""
        return self._starts[indices]

    def frames(self, indices: NDArray[np.int64]) -> Iterator[Frame]:
        """The frames of ascending indices, uint8 ``[H, W, 3]`` each."""
        import av

        wanted = iter(indices.tolist())
        next_one = next(wanted, None)
        number = -1
        with av.open(str(self._path)) as file:
            stream = file.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(file.decode(stream)):
                if number == next_one:
                    yield np.rot90(frame.to_ndarray(format="rgb24"), self._rotation // 90)
                    next_one = next(wanted, None)
                if next_one is None:
                    return
        raise VideoError(f"{self.total} frames are declared, {number + 1} can be decoded")


Reader = Decord | PyAV | Images


def sample(request: dict[str, Any]) -> dict[str, Any]:
    """Read what a request asks for; see :func:`rr_bench.video.decode.decode`.

    Raises:
        VideoError: no reader could give what is asked.
    """
    path, name = Path(request["path"]), request["reader"]
    reader: Reader
    if name == "images":
        reader, declared, rotation = Images(path), None, 0
    else:
        container = read_container(path)
        reader = Decord(path) if name == "decord" else PyAV(path, container)
        declared, rotation = container.declared, container.rotation
    if reader.total < 1 or reader.fps <= 0:
        raise VideoError("the video has no frames")
    last = np.array([reader.total - 1], dtype=np.int64)
    duration = float(reader.seconds(last)[0]) + 1 / reader.fps
    if declared is not None and duration < SHORTER * declared and declared - duration > 1:
        raise NoVideo(f"truncated: {declared:.1f} s are declared, the frames end at {duration:.1f} s")
    indices = Sampling(**request["sampling"]).frames(reader.total, reader.fps)
    facts = {
        "indices": indices.tolist(),
        "seconds": reader.seconds(indices).tolist(),
        "fps": reader.fps,
        "sample_fps": len(indices) / reader.total * reader.fps,
        "total_frames": reader.total,
        "duration": duration,
        "rotation": rotation,
    }
    if request["pixels"] is not None:
        rule = PixelRule(**request["pixels"])
        save(Path(request["frames"]), reader, indices, rule)
    return facts


def save(path: Path, reader: Reader, indices: NDArray[np.int64], rule: PixelRule) -> None:
    """Write the frames, resized, uint8 ``[N, H, W, 3]``, as an ``.npy`` file."""
    different, places = np.unique(indices, return_inverse=True)
    made: NDArray[np.uint8] | None = None
    for number, frame in enumerate(reader.frames(different)):
        if made is None:
            size = rule.size(len(indices), *frame.shape[:2])
            made = np.empty((len(different), *size, 3), dtype=np.uint8)
        made[number] = resize(frame, made.shape[1], made.shape[2])
    assert made is not None
    np.save(path, made if len(different) == len(indices) else made[places])


def plain(message: str) -> str:
    """The first line of a decoder's message, without times and the places in its own source."""
    text = re.sub(r"\[[\d:]+\] \S+: ?", "", message.strip())
    return text.partition("\n")[0][:200]


def main() -> None:
    """Answer the request on the command line."""
    request = json.loads(sys.argv[1])
    # If whoever waits was killed itself, the kernel ends a decoder that hangs.
    signal.alarm(math.ceil(request["limit"]) + GRACE)
    try:
        answer = sample(request)
    except VideoError as error:
        answer = {"error": str(error), "final": getattr(error, "final", False)}
    # Decoders raise classes of their own; whichever it is, the other decoder may do better.
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {plain(str(error))}", "final": False}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
