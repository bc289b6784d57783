"""Rotary positions of text and video tokens (M-RoPE), by the rule a model was trained with or another.

A token has three positions: time, height and width. Text has all three equal; a video token has the
time of its patch and its place in the frame, all counted from where the video begins. ``original`` is
how Qwen trained its models, and what transformers computed up to 5.2: text goes on behind the largest
position of the video. Later releases let it go on behind the frame's longer side, as if the video took
no time, and 5.3 to 5.17 cut the seconds of a patch to whole ones as well; ``transformers`` stands for
the installed release (transformers issues 45381, 45325, 48669).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A run of video tokens, ordered by time, height, width.

    Attributes:
        times: position of each patch along time, counted from the block's start.
        height: language tokens of a frame from top to bottom.
        width: from left to right.
    """

    times: tuple[int, ...]
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Video tokens of the block."""
        return len(self.times) * self.height * self.width


def patch_times(patches: int, seconds: float | None, per_second: float) -> tuple[int, ...]:
    """Times of a video's patches by the original rule.

    Args:
        patches: how many.
        seconds: between two patches; ``None`` for a family that counts patches (Qwen2-VL).
        per_second: positions of a second (Qwen2.5-VL's ``tokens_per_second``).
    """
    if seconds is None:
        return tuple(range(patches))
    return tuple(int(number * seconds * per_second) for number in range(patches))


def original_positions(visual: Tensor, blocks: Sequence[Block]) -> Tensor:
    """Positions of a sequence of text and video tokens by the original rule.

    Args:
        visual: bool ``[L]``, which tokens are video tokens.
        blocks: the runs of video tokens, in their order. Two may follow each other directly.

    Returns:
        int64 ``[3, 1, L]``: time, height, width.

    Raises:
        ValueError: blocks and tokens do not fit.
    """
    if sum(block.tokens for block in blocks) != int(visual.sum()):
        raise ValueError(f"{int(visual.sum())} video tokens do not fit the grids {list(blocks)}")
    marks, parts, at, start = visual.tolist(), [], 0, 0
    waiting = list(blocks)
    while at < len(marks):
        if marks[at]:
            block = waiting.pop(0)
            if not all(marks[at : at + block.tokens]):
                raise ValueError(f"text stands inside a run of {block.tokens} video tokens")
            grid = (torch.tensor(block.times), torch.arange(block.height), torch.arange(block.width))
            parts.append(torch.stack([one.flatten() for one in torch.meshgrid(*grid, indexing="ij")]))
            step = block.tokens
        else:
            step = next((i for i, mark in enumerate(marks[at:]) if mark), len(marks) - at)
            parts.append(torch.arange(step).expand(3, -1))
        parts[-1] = parts[-1] + start
        start, at = int(parts[-1].max()) + 1, at + step
    return torch.cat(parts, 1)[:, None]
