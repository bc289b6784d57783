"""A prompt and its video as tokens: markers, one placeholder for each visual token, types.

The layout is that of the families' own processors (transformers 5.17). Qwen2-VL and Qwen2.5-VL have one
run of placeholders between two markers. Qwen3-VL puts the time of each patch in words before it and
markers around it; the outer pair of markers that stood around the whole video stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rr_bench.model.vision.families import Family
from rr_bench.model.vision.patches import MERGE, TEMPORAL
from rr_bench.model.vision.positions import Block, patch_times

START, PAD, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
VIDEO_TYPE = 2
"""Of a video token in ``mm_token_type_ids``; text is 0."""


@dataclass(frozen=True)
class Layout:
    """A prompt's tokens.

    Attributes:
        ids: int64 ``[1, L]``.
        visual: bool ``[L]``, which are video tokens.
        spans: of each token its ``[start, end)`` in the prompt's text, ``(-1, -1)`` outside of it.
        blocks: the runs of video tokens.
    """

    ids: Tensor
    visual: Tensor
    spans: list[tuple[int, int]]
    blocks: list[Block]

    @property
    def token_types(self) -> Tensor:
        """``mm_token_type_ids``: int32 ``[1, L]``."""
        return self.visual[None].to(torch.int32) * VIDEO_TYPE


def lay_out(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    family: Family,
    grid: tuple[int, int, int],
    seconds: Sequence[float],
    *,
    sample_fps: float,
    per_second: float = 1.0,
) -> Layout:
    """Tokens of one user turn: the video first, then the prompt.

    Args:
        tokenizer: the model's. Its chat template makes the turn; without one the video and the prompt
            stand alone.
        prompt: the text.
        family: of the model.
        grid: ``(t, h, w)`` of the video in patches.
        seconds: of each frame, for timestamps.
        sample_fps: frames per second of the video, as sampled.
        per_second: the config's ``tokens_per_second``.

    Raises:
        ValueError: the rendered turn does not hold the video and the prompt once each.
    """
    t, h, w = grid[0], grid[1] // MERGE, grid[2] // MERGE
    text = render(tokenizer, prompt)
    at = text.find(prompt, text.find(PAD))
    if text.count(PAD) != 1 or at < 0:
        raise ValueError("the chat template does not put one video and the prompt into the turn")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pad = token_id(tokenizer, PAD)
    place = encoded["input_ids"].index(pad)
    inside, blocks = _video(tokenizer, family, (t, h, w), seconds, sample_fps, per_second)
    ids = [*encoded["input_ids"][:place], *inside, *encoded["input_ids"][place + 1 :]]
    offsets = [
        (start - at, end - at) if start >= at and end <= at + len(prompt) and end > start else (-1, -1)
        for start, end in encoded["offset_mapping"]
    ]
    spans = [*offsets[:place], *[(-1, -1)] * len(inside), *offsets[place + 1 :]]
    tokens = torch.tensor([ids])
    return Layout(tokens, torch.eq(tokens[0], pad), spans, blocks)


def render(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The turn as text, with one placeholder for the whole video."""
    if not tokenizer.chat_template:
        return f"{START}{PAD}{END}{prompt}"
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    turn: Any = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return str(text)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Id of a marker.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token}, which a video needs")
    return found


def timestamps(seconds: Sequence[float]) -> list[str]:
    """What Qwen3-VL reads before each patch: the mean time of its two frames."""
    times = [*seconds, *seconds[-1:]] if len(seconds) % TEMPORAL else list(seconds)
    return [f"<{(a + b) / 2:.1f} seconds>" for a, b in list(pairwise(times))[::TEMPORAL]]


def _video(
    tokenizer: PreTrainedTokenizerBase,
    family: Family,
    size: tuple[int, int, int],
    seconds: Sequence[float],
    sample_fps: float,
    per_second: float,
) -> tuple[list[int], list[Block]]:
    """What stands in the place of the placeholder, and the runs of video tokens in it."""
    t, h, w = size
    start, pad, end = (token_id(tokenizer, marker) for marker in (START, PAD, END))
    if not family.timestamps:
        step = TEMPORAL / sample_fps if family.seconds else None
        return [pad] * (t * h * w), [Block(patch_times(t, step, per_second), h, w)]
    ids: list[int] = []
    for time in timestamps(seconds):
        words = tokenizer(time, add_special_tokens=False)["input_ids"]
        ids += [*words, start, *[pad] * (h * w), end]
    return ids, [Block((0,), h, w)] * t
