"""Frames to the patches that the Qwen vision towers read, without torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MERGE = 2
"""Patches of a language token, along each side."""
TEMPORAL = 2
"""Frames of a patch."""


@dataclass(frozen=True)
class PixelFormat:
    """How a family's processor makes patches.

    Attributes:
        patch: pixels of a patch's side.
        mean: of each channel, 0..1.
        std: the same.
    """

    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor(self) -> int:
        """What both sides of a frame are multiples of: pixels of a language token's side."""
        return self.patch * MERGE


CLIP = PixelFormat(14, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Of Qwen2-VL and Qwen2.5-VL."""
HALF = PixelFormat(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Of Qwen3-VL."""


def patchify(
    frames: NDArray[np.uint8] | Tensor, form: PixelFormat
) -> tuple[Tensor, tuple[int, int, int]]:
    """Normalise frames and cut them into patches.

    Args:
        frames: uint8 ``[frames, H, W, 3]``; both sides multiples of ``form.factor``. An odd last frame
            is repeated.
        form: of the model's family.

    Returns:
        Patches, fp32 ``[t * h * w, 3 * 2 * patch * patch]``, neighbours that are merged one behind the
        other, and the grid ``(t, h, w)`` in patches.

    Raises:
        ValueError: the frames do not fit the grid.
    """
    given = torch.as_tensor(frames)
    if given.ndim != 4 or given.shape[-1] != 3 or given.shape[0] == 0:
        raise ValueError(f"frames must be [frames, height, width, 3], got {tuple(given.shape)}")
    if given.shape[1] % form.factor or given.shape[2] % form.factor:
        raise ValueError(
            f"frames of {given.shape[1]} x {given.shape[2]} pixels are no multiples of {form.factor}"
        )
    if given.shape[0] % TEMPORAL:
        given = torch.cat([given, given[-1:]])
    mean, std = (torch.tensor(one, device=given.device) * 255 for one in (form.mean, form.std))
    pixels = ((given.float() - mean) / std).permute(0, 3, 1, 2)  # [frames, 3, H, W]
    t, h, w = (given.shape[0] // TEMPORAL, given.shape[1] // form.patch, given.shape[2] // form.patch)
    cut = pixels.reshape(t, TEMPORAL, 3, h // MERGE, MERGE, form.patch, w // MERGE, MERGE, form.patch)
    flat = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
    return flat, (t, h, w)
