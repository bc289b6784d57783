"""The frames of a video that a model is shown, decoded once and kept on disk."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from rr_bench.store.fingerprint import file_hash
from rr_bench.video.decode import SECONDS, decode, readers_for
from rr_bench.video.errors import VideoError
from rr_bench.video.images import folder_hash
from rr_bench.video.pixels import PixelRule
from rr_bench.video.sampling import Sampling

VERSION = 2
"""Of how frames are made: raised when the same request would give other pixels."""

CACHE_BYTES = 50 * 2**30
ABANDONED = 24 * 3600
"""Seconds after which frames without a description were left by a process that was killed."""

Found = tuple[dict[str, Any], NDArray[np.uint8] | None]
"""A frame set's description and its frames, if they were asked for."""


@dataclass(frozen=True)
class Sampled:
    """Which frames of a video are shown, without their pixels.

    Attributes:
        indices: int64 ``[N]``.
        seconds: start of each frame by its time stamp, float64 ``[N]``.
        fps: average frames per second of the video.
        sample_fps: frames shown per second of video.
        total_frames: of the video.
        duration: seconds until the last frame ends.
        rotation: degrees counter-clockwise by which the frames were turned.
        decoder: name and version.
        passed_over: why readers that were tried before gave nothing.
    """

    indices: NDArray[np.int64]
    seconds: NDArray[np.float64]
    fps: float
    sample_fps: float
    total_frames: int
    duration: float
    rotation: int
    decoder: str
    passed_over: tuple[str, ...]


@dataclass(frozen=True)
class FrameSet(Sampled):
    """Frames of a video.

    Attributes:
        frames: uint8 ``[N, H, W, 3]``.
        sha256: of the frames' bytes.
    """

    frames: NDArray[np.uint8]
    sha256: str


class FrameStore:
    """Frame sets by video and rule: each is decoded once and kept in a folder of bounded size.

    Args:
        folder: of the cache.
        limit: bytes of frames kept; those unused for longest go first.
        decoder: ``auto``, ``decord`` or ``pyav``.
        seconds: a decoder may take for one video.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int = CACHE_BYTES,
        decoder: str = "auto",
        seconds: float = SECONDS,
    ) -> None:
        self.folder, self.limit, self.decoder, self.seconds = folder, limit, decoder, seconds
        self._failed: dict[str, VideoError] = {}

    def load(self, path: Path, sampling: Sampling, pixels: PixelRule) -> FrameSet:
        """The frames of a video.

        Raises:
            VideoError: it has none that can be used; the message names the file and the reason. A video
                that failed is not tried again by this object.
        """
        facts, frames = self._found(path, sampling, pixels)
        assert frames is not None
        return FrameSet(**_sampled(facts), frames=frames, sha256=facts["sha256"])

    def sampled(self, path: Path, sampling: Sampling) -> Sampled:
        """Which frames those are; nothing is decoded.

        Raises:
            VideoError: as :meth:`load`.
        """
        return Sampled(**_sampled(self._found(path, sampling, None)[0]))

    def _found(self, path: Path, sampling: Sampling, pixels: PixelRule | None) -> Found:
        """Facts and, where pixels are asked for, frames; made if they are not in the cache."""
        key = self._key(path, sampling, pixels)
        if key in self._failed:
            raise self._failed[key]
        found = self._known(key, pixels is not None)
        if found is None:
            try:
                found = self._make(key, path, sampling, pixels)
            except VideoError as error:
                self._failed[key] = error
                raise
        return found

    def _key(self, path: Path, sampling: Sampling, pixels: PixelRule | None) -> str:
        if path.is_dir():
            content = folder_hash(path)
        elif not path.is_file():
            content = "missing"
        else:
            stat = path.stat()
            content = _content(str(path), stat.st_size, stat.st_mtime_ns)
        asked = {
            "name": path.name if content == "missing" else "",
            "content": content,
            "sampling": asdict(sampling),
            "pixels": None if pixels is None else asdict(pixels),
            "readers": readers_for(path, self.decoder),
            "version": VERSION,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def _known(self, key: str, pixels: bool) -> Found | None:
        """What the cache has of a key; None if that is nothing whole."""
        file = self.folder / f"{key}.json"
        try:
            facts = json.loads(file.read_text())
            frames = np.load(self.folder / f"{key}.npy") if pixels else None
            if frames is not None and _hash(frames) != facts["sha256"]:
                return None
            os.utime(file)
        except (OSError, EOFError, ValueError, KeyError):
            return None
        return facts, frames

    def _make(self, key: str, path: Path, sampling: Sampling, pixels: PixelRule | None) -> Found:
        """Decode; whoever reads the folder sees both files of a frame set whole, or none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.{uuid4().hex}.partial.npy"
        asked = None if pixels is None else asdict(pixels)
        try:
            facts = decode(
                path,
                asdict(sampling),
                asked,
                partial,
                decoder=self.decoder,
                seconds=self.seconds,
            )
            frames = None if pixels is None else np.load(partial)
            if frames is not None:
                facts["sha256"] = _hash(frames)
                partial.replace(self.folder / f"{key}.npy")
            text = partial.with_suffix(".json")
            text.write_text(json.dumps(facts))
            text.replace(self.folder / f"{key}.json")
        finally:
            partial.unlink(missing_ok=True)
        self._shrink(keep=key)
        return facts, frames

    def _shrink(self, keep: str) -> None:
        """Delete frames until the folder is within its bound; those just made stay. What a killed
        process left behind goes too.
        """
        total, old = 0, []
        for file in self.folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process shrinks the folder as well
                size, changed = file.stat().st_size, file.stat().st_mtime
                if file.stem == keep:
                    total += size
                elif (facts := file.with_suffix(".json")).is_file():
                    total += size
                    old.append((facts.stat().st_mtime, size, file))
                elif changed < time.time() - ABANDONED:
                    file.unlink()
        for _, size, file in sorted(old):
            if total <= self.limit:
                return
            file.with_suffix(".json").unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            total -= size


def _sampled(facts: dict[str, Any]) -> dict[str, Any]:
    """A stored description as fields of :class:`Sampled`."""
    return {
        "indices": np.array(facts["indices"], dtype=np.int64),
        "seconds": np.array(facts["seconds"], dtype=np.float64),
        "passed_over": tuple(facts["passed_over"]),
        **{
            name: facts[name]
            for name in ("fps", "sample_fps", "total_frames", "duration", "rotation", "decoder")
        },
    }


def _hash(frames: NDArray[np.uint8]) -> str:
    return hashlib.sha256(frames.data).hexdigest()


@functools.lru_cache(maxsize=4096)
def _content(path: str, size: int, changed: int) -> str:
    return file_hash(path)
