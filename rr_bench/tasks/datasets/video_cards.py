"""``video_cards``: one question about a flash card in a clip, four options, asked behind the video.

Clips are drawn from ``(seed, length, number)`` alone and written as mp4 files when a model first needs
them; ``length`` is the number of video tokens that a Qwen2-VL makes of them. As in Video-MME three
questions are asked about each clip, each in a prompt of its own. The words are those that the probe
knows (:mod:`rr_bench.probe.video`); other models would need to be told what is asked.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.prompts.card_questions import LETTERS, choice_question
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.synthetic.cards import (
    SIZE,
    TOKENS,
    Card,
    Clip,
    clip_frames,
    draw_clip,
    draw_options,
)
from rr_bench.video.clips import write_video

PROMPTS = 1
SCORER = 1

NAME = "video_cards"
CARDS = 96
"""Shown in a clip, or as many as half of its patches."""
QUESTIONS_PER_CLIP = 3
FPS = 2
"""Frames per second of the files, all of which are sampled."""


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """None: every clip is drawn."""
    return []


def clip_random(length: int, seed: int, number: int) -> random.Random:
    """Where a clip comes from; never met by the probe's training."""
    return random.Random(f"video-cards-{length}-{seed}-{number}")


def clip_of(length: int, seed: int, number: int) -> Clip:
    """What a clip of ``length`` video tokens shows.

    Raises:
        ValueError: the length is no place for two cards.
    """
    patches = length // TOKENS
    if patches < 4:
        raise ValueError(f"`lengths`={length}: a clip of cards needs at least {4 * TOKENS}")
    return draw_clip(clip_random(length, seed, number), patches, min(CARDS, patches // 2))


def write_clip(video: Mapping[str, Any], folder: Path) -> Path:
    """The file of a row's ``video``; written if it is not there."""
    length, seed, number = (int(video[name]) for name in ("length", "seed", "number"))
    path = folder / f"{NAME}-v{PROMPTS}-{length}-{seed}-{number:05d}.mp4"
    if not path.is_file():
        rng = random.Random(f"video-cards-frames-{length}-{seed}-{number}")
        write_video(path, clip_frames(clip_of(length, seed, number), rng), FPS)
    return path


def clip_folder() -> Path:
    """Where clips lie: ``RR_BENCH_CACHE``, else ``~/.cache/rr_bench``, in ``clips``."""
    told = os.environ.get("RR_BENCH_CACHE")
    return (Path(told) if told else Path.home() / ".cache" / "rr_bench") / "clips"


def asked(rng: random.Random, card: Card) -> tuple[str, str]:
    """A question and its letter."""
    options = draw_options(rng, card.digit)
    return choice_question(card, options), LETTERS[options.index(card.digit)]


def make_row(
    name: str,
    settings: Settings,
    index: int,
    number: int,
    prompt: str,
    golds: Sequence[str],
    spans: Sequence[tuple[int, int]] | None = None,
) -> Row:
    """A row about clip ``number``; ``video`` says how its file is made."""
    video = {"length": settings.length, "seed": settings.seed, "number": number, "size": SIZE}
    words = settings.length // TOKENS * TOKENS + 2 + len(prompt.split())
    row: Row = {
        "uid": f"{name}-{settings.length}-generated-{index:05d}",
        "dataset": name,
        "length": settings.length,
        "prompt": prompt,
        "chat": False,
        "golds": json.dumps(list(golds)),
        "extra": json.dumps({"clip": number}),
        "input_len": words,
        "budget": words,
        "truncated": False,
        "removed_tokens": 0,
        "source": "generated",
        "video": json.dumps(video),
        "cluster": f"clip {number}",
    }
    if spans is not None:
        row["spans"] = json.dumps([list(span) for span in spans])
    return row


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows: one question each, three for each clip."""
    made = []
    for index in range(settings.samples):
        number, which = divmod(index, QUESTIONS_PER_CLIP)
        clip = clip_of(settings.length, settings.seed, number)
        rng = random.Random(f"video-cards-end-{settings.length}-{settings.seed}-{number}")
        cards = rng.sample(clip.cards, min(QUESTIONS_PER_CLIP, len(clip.cards)))
        prompt, letter = [asked(rng, card) for card in cards][which % len(cards)]
        made.append(make_row(name, settings, index, number, prompt, [letter]))
    return made


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the first of the four letters in the output is the right one; 0 if there is none."""
    letter = letter_of(doc, results[0])
    return {"score": float([letter] == json.loads(doc["golds"])), "answered": float(letter is not None)}


def letter_of(doc: Mapping[str, Any], output: str) -> str | None:
    """The first capital A to D of an output."""
    return next((sign for sign in output if sign in LETTERS), None)
