"""Dense scores of the video probe, from pixels: questions inside the prefill, and one at its end."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from rr_bench.model.vision.positions import Block, original_positions, patch_times
from rr_bench.probe.video.tokenizer import VIDEO, VISION_END, VISION_START, build_tokenizer
from rr_bench.probe.video.tower import SHARE, see
from rr_bench.tasks.prompts.card_questions import LETTERS, choice_question
from rr_bench.tasks.synthetic.cards import TOKENS, clip_frames, draw_clip, draw_options

SINGLES = 8
"""Single questions asked about each clip."""


@torch.no_grad()
def evaluate(
    model: Qwen2VLForConditionalGeneration, patches: int, cards: int, questions: int, clips: int
) -> dict[str, Any]:
    """Share of right letters at one length; seeds that no training clip and no task uses.

    Args:
        model: the probe.
        patches: of the clips.
        cards: shown in each.
        questions: asked one behind the other, their right answers given.
        clips: how many.
    """
    right, alone = [], []
    for number in range(clips):
        rng = random.Random(f"video-probe-validation-{patches}-{number}")
        clip = draw_clip(rng, patches, min(cards, patches // 2))
        frames = torch.from_numpy(clip_frames(clip, rng))
        video = torch.cat([see(model, part) for part in frames.split(2 * SHARE)]).flatten(0, 1)
        asked = []
        for card in rng.sample(clip.cards, min(questions, len(clip.cards))):
            options = draw_options(rng, card.digit)
            asked.append((choice_question(card, options), LETTERS[options.index(card.digit)]))
        right += _answers(model, video, asked)
        for one in asked[:SINGLES]:
            alone += _answers(model, video, [one])
    return {
        "eval_patches": patches,
        "tokens": TOKENS * patches,
        "inside": round(sum(right) / len(right), 4),
        "at_the_end": round(sum(alone) / len(alone), 4),
        "questions": len(right),
    }


def _answers(
    model: Qwen2VLForConditionalGeneration, video: torch.Tensor, asked: list[tuple[str, str]]
) -> list[bool]:
    """Whether each letter is the arg-max, given all before it."""
    tokenizer, device = build_tokenizer(), model.device
    text = " ".join(f"{question} {letter}" for question, letter in asked)
    head = [VISION_START, *[VIDEO] * len(video), VISION_END]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids([*head, *text.split()])], device=device)
    letters = [len(f"{question} {letter}".split()) for question, letter in asked]
    at = torch.tensor(letters).cumsum(0) + len(head) - 1
    embeds = model.model.language_model.embed_tokens(ids)
    embeds[0, 1 : 1 + len(video)] = video.to(embeds)
    patches = len(video) // TOKENS
    visual = torch.zeros(ids.shape[1], dtype=torch.bool)
    visual[1 : 1 + len(video)] = True
    positions = original_positions(visual, [Block(patch_times(patches, None, 1), 2, 2)])
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden = model.model.language_model(
            inputs_embeds=embeds, position_ids=positions.to(device), use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[0, at.to(device) - 1])
    hits: list[bool] = (logits.argmax(-1) == ids[0, at.to(device)]).tolist()
    return hits
