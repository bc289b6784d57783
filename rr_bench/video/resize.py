"""Frames at another size, as qwen-vl-utils makes them: bicubic, antialiased, in floating point.

The arithmetic is that of ``torch.nn.functional.interpolate(mode="bicubic", antialias=True)`` on floats,
rounded at the end, without torch in the process that decodes. PIL and the processors of transformers
round between the two passes as well: they differ from it by up to 3 of 255 in real frames.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

SHARPNESS = -0.5
"""Parameter of the cubic (Keys 1981) where torch antialiases, and of PIL."""
REACH = 2
"""Pixels that the cubic reaches to either side, of the coarser of the two sizes."""


def resize(frame: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A frame at another size.

    Args:
        frame: ``[H, W, 3]``.
        height: wanted.
        width: wanted.

    Returns:
        uint8 ``[height, width, 3]``; the frame itself if it has that size.
    """
    if frame.shape[:2] == (height, width):
        return frame
    rows = _weighed(np.asarray(frame, np.float32), height)
    columns = _weighed(np.ascontiguousarray(rows.transpose(1, 0, 2)), width).transpose(1, 0, 2)
    return np.ascontiguousarray(np.rint(columns.clip(0, 255)).astype(np.uint8))


def _weighed(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The first axis at another size."""
    if len(values) == size:
        return values
    places, weights = taps(len(values), size)
    made = np.zeros((size, *values.shape[1:]), np.float32)
    for place, weight in zip(places, weights, strict=True):
        made += weight[:, None, None] * values[place]
    return made


@functools.lru_cache(maxsize=8)
def taps(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which pixels of a side make each new one: places and weights, ``[taps, new]`` each."""
    scale = old / new
    coarse = max(scale, 1.0)
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - REACH * coarse + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + REACH * coarse + 0.5).astype(np.int64), old)
    place = first + np.arange(int((end - first).max()))[:, None]
    weight = np.where(place < end, _cubic((place - centre + 0.5) / coarse), 0.0)
    return np.minimum(place, old - 1), (weight / weight.sum(0)).astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(distance), SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < REACH, far, 0.0))
