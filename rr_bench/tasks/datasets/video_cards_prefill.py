"""``video_cards_prefill``: up to 64 questions about a clip's cards, graded inside the prefill.

As in ``recall_prefill`` each question is followed by its right answer, and counts when that letter is
the arg-max given all before it: one forward pass grades them all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rr_bench.tasks.datasets.video_cards import asked, clip_of, files, make_row
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.settings import Settings

__all__ = ["PROMPTS", "SCORER", "files", "process_results", "rows"]

PROMPTS = 1
SCORER = 1

QUESTIONS = 64


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """The task's rows: one for each clip."""
    made = []
    for number in range(settings.samples):
        clip = clip_of(settings.length, settings.seed, number)
        rng = random.Random(f"video-cards-prefill-{settings.length}-{settings.seed}-{number}")
        prompt, spans, golds = "", [], []
        wanted = QUESTIONS if settings.questions is None else settings.questions
        for card in rng.sample(clip.cards, min(wanted, len(clip.cards))):
            question, letter = asked(rng, card)
            prompt += f"{' ' if prompt else ''}{question} {letter}"
            spans.append((len(prompt) - 1, len(prompt)))
            golds.append(letter)
        made.append(make_row(name, settings, number, number, prompt, golds, spans))
    return made


def process_results(doc: Mapping[str, Any], results: Sequence[bool]) -> dict[str, float]:
    """Share of the questions whose letter is the arg-max, in 0..1."""
    return {"score": sum(results) / len(results)}
