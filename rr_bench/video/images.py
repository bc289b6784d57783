"""A folder of frames that were taken out of a video before: read like a video of just these frames.

The images lie in the order of the numbers in their names. ``video.json`` beside them says how fast they
follow each other: ``{"fps": 1.0}`` for one a second.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rr_bench.store.fingerprint import file_hash, tree_hash
from rr_bench.video.errors import NoVideo

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
FACTS = "video.json"


class Images:
    """Frames from a folder.

    Args:
        folder: with images and ``video.json``.

    Raises:
        NoVideo: there are no images, or no frames per second.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = image_files(folder)
        if not self.paths:
            raise NoVideo(f"the folder holds no images ({', '.join(ENDINGS)})")
        self.total = len(self.paths)
        try:
            self.fps = float(json.loads((folder / FACTS).read_text(encoding="utf-8"))["fps"])
        except (OSError, ValueError, KeyError, TypeError):
            self.fps = 0.0
        if not 0 < self.fps < float("inf"):
            raise NoVideo(f'a folder of frames needs {FACTS} with their rate, such as {{"fps": 1.0}}')

    def seconds(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Start of each frame."""
        return indices / self.fps

    def frames(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The frames of these indices, uint8 ``[H, W, 3]`` each.

        Raises:
            NoVideo: one cannot be read, or has another size than the first.
        """
        from PIL import Image, ImageOps

        size = None
        for index in indices.tolist():
            path = self.paths[index]
            try:
                with Image.open(path) as image:
                    frame = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            except OSError as error:
                raise NoVideo(f"{path.name} cannot be read: {type(error).__name__}") from error
            size = size or frame.shape
            if frame.shape != size:
                raise NoVideo(f"{path.name} has another size than the images before it")
            yield frame


def image_files(folder: Path) -> list[Path]:
    """The images of a folder by the numbers in their names, 9 before 10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS]
    return sorted(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.stem)], path.name))


def folder_hash(folder: Path) -> str:
    """SHA-256 of the images and their rate, with their names; computed once while nothing changes."""
    files = [*image_files(folder), *([folder / FACTS] if (folder / FACTS).is_file() else [])]
    return _hash(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=4096)
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    return tree_hash({Path(path).name: file_hash(path) for path, _, _ in files})
