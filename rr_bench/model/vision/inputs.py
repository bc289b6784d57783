"""What a vision-language model is given: tokens, their positions, and what its tower saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rr_bench.model.vision.families import family_of
from rr_bench.model.vision.layout import Layout, lay_out
from rr_bench.model.vision.patches import MERGE, TEMPORAL, patchify
from rr_bench.model.vision.positions import original_positions

RULES = ("original", "transformers")


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video's sampled frames without their pixels.

    Attributes:
        size: ``(frames, height, width)``.
        seconds: time of each frame.
        sample_fps: frames per second, as sampled.
        sha256: identity of the frames.
    """

    size: tuple[int, int, int]
    seconds: tuple[float, ...]
    sample_fps: float
    sha256: str


@dataclass(frozen=True)
class VideoPrompt:
    """A prompt with its video, ready for the language layers.

    Attributes:
        layout: its tokens, on the CPU.
        ids: int64 ``[1, L]``, on the device.
        positions: int64 ``[3, 1, L]``, on the device.
        grid: ``(t, h, w)`` in patches.
        largest: the largest position.
    """

    layout: Layout
    ids: Tensor
    positions: Tensor
    grid: tuple[int, int, int]
    largest: int


@dataclass(frozen=True)
class Seen:
    """What the vision tower makes of a video.

    Attributes:
        embeds: ``[video tokens, hidden]``.
        deepstack: the same for each of the first language layers, which add it (Qwen3-VL).
    """

    embeds: Tensor
    deepstack: list[Tensor] | None

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(one.nbytes for one in (self.embeds, *(self.deepstack or ())))


def read_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    video: VideoFacts,
    rule: str,
) -> VideoPrompt:
    """Tokens and positions of a prompt about a video.

    Args:
        model: Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
        tokenizer: its tokenizer.
        prompt: the text.
        video: what is known of its frames.
        rule: of the positions, one of ``RULES``.

    Raises:
        ValueError: another model, frames that do not fit its patches, or an unknown rule.
    """
    config = model.config.to_dict()
    family = family_of(config)
    frames, height, width = video.size
    patch = family.form.patch
    if height % family.form.factor or width % family.form.factor:
        raise ValueError(
            f"frames of {height} x {width} pixels: this model needs multiples of {family.form.factor}"
        )
    grid = (-(-frames // TEMPORAL), height // patch, width // patch)
    layout = lay_out(
        tokenizer,
        prompt,
        family,
        grid,
        video.seconds,
        sample_fps=video.sample_fps,
        per_second=float(config["vision_config"].get("tokens_per_second", 1)),
    )
    if rule == "original":
        positions = original_positions(layout.visual, layout.blocks)
    elif rule == "transformers":
        step = TEMPORAL / video.sample_fps if family.seconds else None
        positions = own_positions(model, layout, grid, step)
    else:
        raise ValueError(f"positions={rule}: one of {', '.join(RULES)}")
    device = model.device
    return VideoPrompt(layout, layout.ids.to(device), positions.to(device), grid, int(positions.max()))


def own_positions(
    model: PreTrainedModel, layout: Layout, grid: tuple[int, int, int], step: float | None
) -> Tensor:
    """Positions as the installed transformers computes them: int64 ``[3, 1, L]``."""
    known: dict[str, Any] = {} if step is None else {"second_per_grid_ts": torch.tensor([step])}
    positions, _ = model.model.get_rope_index(
        layout.ids,
        mm_token_type_ids=layout.token_types,
        video_grid_thw=torch.tensor([grid]),
        **known,
    )
    found: Tensor = positions
    return found


@torch.no_grad()
def look(model: PreTrainedModel, frames: NDArray[np.uint8]) -> Seen:
    """Send a video, uint8 ``[frames, H, W, 3]``, through the vision tower alone."""
    form = family_of(model.config.to_dict()).form
    pixels, grid = patchify(torch.as_tensor(frames).to(model.device), form)
    output = model.model.get_video_features(pixels, torch.tensor([grid], device=model.device))
    embeds = torch.cat(list(output.pooler_output))
    tokens = grid[0] * grid[1] * grid[2] // MERGE**2
    if embeds.shape[0] != tokens:
        raise ValueError(f"the vision tower made {embeds.shape[0]} tokens where the grid has {tokens}")
    return Seen(embeds, getattr(output, "deepstack_features", None))


def language_inputs(
    model: PreTrainedModel, prompt: VideoPrompt, seen: Seen, tokens: int
) -> dict[str, Any]:
    """Keyword arguments of the language layers for the first ``tokens`` tokens of a prompt."""
    ids = prompt.ids[:, :tokens]
    visual = prompt.layout.visual[:tokens].to(ids.device)
    embeds = model.get_input_embeddings()(ids)
    count = int(visual.sum())
    embeds[0, visual] = seen.embeds[:count].to(embeds.dtype)
    inputs: dict[str, Any] = {"inputs_embeds": embeds, "position_ids": prompt.positions[..., :tokens]}
    if seen.deepstack is not None:
        inputs["visual_pos_masks"] = visual[None]
        inputs["deepstack_visual_embeds"] = [one[:count] for one in seen.deepstack]
    return inputs
