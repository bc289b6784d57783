"""Training clips of the video probe: which cards they show, and questions with their answers.

All clips of a batch have one shape, so nothing is padded: as many patches, cards and questions, the
questions of the same kinds in the same order. Video tokens are looked up in what the tower has seen
(:func:`rr_bench.probe.video.tower.bank`). A batch is a function of ``(seed, step)`` alone, and seeds
here never meet those of an evaluated clip.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rr_bench.model.vision.positions import Block, original_positions, patch_times
from rr_bench.probe.video.tokenizer import VIDEO, VISION_END, VISION_START, build_tokenizer
from rr_bench.tasks.prompts.card_questions import ASK, CHOOSE, LETTERS, MARK, OPEN
from rr_bench.tasks.synthetic.cards import COLOURS, DIGITS, GROUNDS, SHAPES, TOKENS, draw_clip

SALT = "video-probe-training"
Numbers = NDArray[np.int64]

_vocabulary = build_tokenizer().get_vocab()


def _ids(words: tuple[str, ...] | str) -> Numbers:
    return np.array([_vocabulary[word] for word in words])


_KEY_IDS = tuple(_ids(tuple(words)) for words in (GROUNDS, COLOURS, SHAPES))
_DIGIT_IDS, _LETTER_IDS = _ids(DIGITS), _ids(LETTERS)
_ASK, _MARK, _OPEN, _CHOOSE = _ids((ASK, MARK, OPEN, CHOOSE))


@dataclass(frozen=True)
class Shape:
    """What the clips of a batch have in common.

    Attributes:
        patches: of the video, two frames each.
        cards: shown.
        questions: asked.
        open: share of questions without options.
    """

    patches: int
    cards: int
    questions: int
    open: float = 0.5


@dataclass(frozen=True)
class Batch:
    """Clips of one shape.

    Attributes:
        ids: int64 ``[clips, L]``.
        views: int64 ``[clips, patches, 3]``: key, digit and view of what is seen; key -1 is plain, the
            view then numbers a plain frame.
        positions: int64 ``[3, 1, L]``.
        answers: int64 ``[questions]``, where the answers stand in ``ids``.
        choices: bool ``[questions]``, whether a question has options.
    """

    ids: Tensor
    views: Tensor
    positions: Tensor
    answers: Tensor
    choices: Tensor


def draw_batch(seed: str, clips: int, shape: Shape, views: int, plain: int) -> Batch:
    """Draw a batch.

    Args:
        seed: of everything.
        clips: in the batch.
        shape: of each clip.
        views: that the tower has of a card.
        plain: that it has of plain frames.
    """
    rng = random.Random(f"{SALT}-{seed}")
    numbers = np.random.default_rng(rng.getrandbits(64))
    drawn = [draw_clip(rng, shape.patches, shape.cards) for _ in range(clips)]
    cards = np.array([[(card.key, card.digit) for card in clip.cards] for clip in drawn])
    shown = np.array([clip.shown for clip in drawn])
    order = np.argsort(numbers.random((clips, shape.cards)), 1)
    asked = order[:, np.arange(shape.questions) % shape.cards]
    keys, digits = np.moveaxis(np.take_along_axis(cards, asked[..., None], 1), -1, 0)
    is_open = numbers.random(shape.questions) < shape.open
    text, answers = _questions(numbers, keys, digits, is_open)
    head = _ids((VISION_START, *[VIDEO] * (TOKENS * shape.patches), VISION_END))
    ids = torch.from_numpy(np.concatenate([np.tile(head, (clips, 1)), text], 1))
    block = Block(patch_times(shape.patches, None, 1), 2, 2)
    return Batch(
        ids,
        torch.from_numpy(_views(numbers, cards, shown, views, plain)),
        original_positions(ids[0] == _vocabulary[VIDEO], [block]),
        torch.from_numpy(answers + len(head)),
        torch.from_numpy(~is_open),
    )


def _views(
    numbers: np.random.Generator, cards: Numbers, shown: Numbers, views: int, plain: int
) -> Numbers:
    """Which view of which card each patch is."""
    found = np.take_along_axis(cards, np.maximum(shown, 0)[..., None], 1)
    blank = shown < 0
    key, digit = np.where(blank, -1, found[..., 0]), np.where(blank, 0, found[..., 1])
    view = np.where(
        blank, numbers.integers(plain, size=shown.shape), numbers.integers(views, size=shown.shape)
    )
    return np.stack([key, digit, view], -1)


def _questions(
    numbers: np.random.Generator, keys: Numbers, digits: Numbers, is_open: NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """Text ids ``[clips, L]`` of all questions with their answers, and where those stand."""
    clips = len(keys)
    others = numbers.random((*digits.shape, 10))
    np.put_along_axis(others, digits[..., None], -1.0, 2)
    options = np.argsort(others, -1)[..., :4]  # the right one first
    shuffle = np.argsort(numbers.random(options.shape), -1)
    options = np.take_along_axis(options, shuffle, -1)
    letters = np.argmax(options == digits[..., None], -1)
    parts: list[Numbers] = []
    answers, length = [], 0
    for number, without in enumerate(is_open):
        key = keys[:, number]
        words = [_KEY_IDS[0][key // 64], _KEY_IDS[1][key // 8 % 8], _KEY_IDS[2][key % 8]]
        if without:
            tail = [_OPEN, _DIGIT_IDS[digits[:, number]]]
        else:
            listed = [x for i in range(4) for x in (_LETTER_IDS[i], _DIGIT_IDS[options[:, number, i]])]
            tail = [*listed, _CHOOSE, _LETTER_IDS[letters[:, number]]]
        columns = [_ASK, *words, _MARK, *tail]
        parts.append(np.stack([np.broadcast_to(column, clips) for column in columns], 1))
        length += len(columns)
        answers.append(length - 1)
    return np.concatenate(parts, 1), np.array(answers)
