"""The video probe's vision tower: learning to recognise cards, and what it sees of each of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from rr_bench.model.vision.patches import CLIP, patchify
from rr_bench.probe.video.channels import CHANNELS, FLAG, KINDS, codes, video_target
from rr_bench.tasks.synthetic.cards import KEYS, SIZE, TOKENS, Card, card_frame, plain_frame

NOISE = 18.0
"""Standard deviation of the noise that frames are trained with, of 255."""
PLAIN = 0.2
"""Share of plain frames in a step."""
SHARE = 4096
"""Frames that go through the tower at once."""


def see(model: Qwen2VLForConditionalGeneration, frames: Tensor) -> Tensor:
    """Video tokens, fp32 ``[patches, 4, 384]``, of frames ``[2 * patches, 56, 56, 3]`` of 0 to 255."""
    device = model.device
    pixels, (t, h, w) = patchify(frames.to(device), CLIP)
    grid = torch.tensor([[t, h, w]], device=device)
    seen = model.model.visual(pixels.to(model.dtype), grid_thw=grid).pooler_output
    return seen.view(t, TOKENS, -1).float()


class Recognition:
    """Training of the tower alone: each video token towards what :func:`video_target` says.

    Args:
        model: on its device.
        seed: of the codes and of the frames.
        frames: patches of a step.
        peak: learning rate.
    """

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, seed: int, frames: int = 128, peak: float = 2e-3
    ) -> None:
        self.model, self.frames, self.peak = model, frames, peak
        self.random = random.Random(f"video-probe-tower-{seed}")
        self.noise = torch.Generator().manual_seed(seed)
        self.codes = codes(seed)
        self.optimizer = torch.optim.AdamW(model.model.visual.parameters(), lr=peak, weight_decay=0.01)

    def step(self, progress: float) -> dict[str, Any]:
        """One step at ``progress``, 0 to 1, of the training; numbers for the log."""
        warm = min(1.0, (progress + 0.01) / 0.05)
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak * warm * (1.0 - 0.9 * progress)
        cards = [self._card() for _ in range(self.frames)]
        device = self.model.device
        seen = see(self.model, noisy(cards, self.random, self.noise))
        wanted = video_target(cards, self.codes).to(device)
        loss = (seen - wanted[:, None]).square().sum(-1).mean()
        shown = torch.tensor([card is not None for card in cards], device=device)
        right = torch.ones(int(shown.sum()), TOKENS, dtype=torch.bool, device=device)
        for kind, numbers in self._labels(cards).items():
            logits = 6.0 * seen[shown][..., CHANNELS[kind]] @ self.codes[kind].to(device).T
            labels = torch.tensor(numbers, device=device)[:, None].expand(-1, TOKENS)
            loss = loss + F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            right &= logits.argmax(-1) == labels
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.model.visual.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        flags = (seen[..., FLAG] > 0.5).all(-1) == shown
        return {"loss": loss.detach(), "cards": right.float().mean(), "flags": flags.float().mean()}

    def _card(self) -> Card | None:
        if self.random.random() < PLAIN:
            return None
        return Card(self.random.randrange(KEYS), self.random.randrange(10))

    @staticmethod
    def _labels(cards: list[Card | None]) -> dict[str, list[int]]:
        rows = [(*card.parts, card.digit) for card in cards if card is not None]
        return {kind: [row[i] for row in rows] for i, kind in enumerate(list(KINDS)[:4])}


def noisy(cards: list[Card | None], rng: random.Random, noise: torch.Generator) -> Tensor:
    """Two frames of each card, shifted by up to a pixel and noisy: float ``[2 * cards, 56, 56, 3]``."""
    still = np.empty((len(cards), SIZE, SIZE, 3), np.uint8)
    for row, card in zip(still, cards, strict=True):
        shift = (rng.randint(-1, 1), rng.randint(-1, 1))
        row[:] = plain_frame(rng) if card is None else card_frame(card, shift)
    frames = torch.from_numpy(still).float().repeat_interleave(2, 0)
    # A whole frame is a little brighter or darker too, as a codec leaves it.
    frames += NOISE * torch.randn(frames.shape, generator=noise)
    frames += NOISE / 3 * torch.randn(len(frames), 1, 1, 3, generator=noise)
    return frames.clamp_(0, 255)


@torch.no_grad()
def bank(
    model: Qwen2VLForConditionalGeneration, variants: int, plain: int, seed: int
) -> tuple[Tensor, Tensor]:
    """What the tower sees of every card, a few times each, and of some plain frames.

    Args:
        model: with its trained tower.
        variants: noisy views of a card.
        plain: how many plain frames.
        seed: of shifts and noise.

    Returns:
        ``[512, 10, variants, 4, 384]`` and ``[plain, 4, 384]``, on the model's device.
    """
    rng, noise = random.Random(f"video-probe-bank-{seed}"), torch.Generator().manual_seed(seed + 1)
    every: list[Card | None] = [Card(key, digit) for key in range(KEYS) for digit in range(10)]
    views = [_seen(model, every, rng, noise) for _ in range(variants)]
    blank: list[Card | None] = [None] * plain
    return torch.stack(views, 1).unflatten(0, (KEYS, 10)), _seen(model, blank, rng, noise)


def _seen(
    model: Qwen2VLForConditionalGeneration,
    cards: list[Card | None],
    rng: random.Random,
    noise: torch.Generator,
) -> Tensor:
    parts = [see(model, noisy(part, rng, noise)) for part in _shares(cards)]
    return torch.cat(parts)


def _shares(cards: list[Card | None]) -> Iterator[list[Card | None]]:
    for start in range(0, len(cards), SHARE):
        yield cards[start : start + SHARE]
