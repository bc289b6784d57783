"""Flash cards in a video: a key of three words, ground x colour x shape, and a digit as its value.

Frames are 56 x 56 pixels, which Qwen2-VL sees as four tokens for every two frames. A card is held for
one or more *patches* of two frames; all other patches show a plain colour. The probe's training and the
task that asks about the cards draw both from here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SIZE = 56
"""Pixels of a frame's side."""

TOKENS = 4
"""Language tokens of a patch: two frames, each of 4 x 4 squares of 14 pixels, merged two by two."""

GROUNDS = {
    "black": (0, 0, 0),
    "navy": (0, 0, 110),
    "maroon": (110, 0, 0),
    "forest": (0, 90, 0),
    "teal": (0, 90, 100),
    "plum": (100, 0, 110),
    "brown": (110, 65, 0),
    "slate": (95, 95, 105),
}
COLOURS = {
    "red": (235, 40, 40),
    "orange": (245, 150, 30),
    "yellow": (240, 235, 50),
    "green": (60, 210, 60),
    "cyan": (50, 220, 230),
    "blue": (70, 110, 255),
    "pink": (255, 120, 200),
    "violet": (170, 80, 255),
}
SHAPES = ("square", "disc", "triangle", "diamond", "cross", "ring", "bar", "pillar")
KEYS = len(GROUNDS) * len(COLOURS) * len(SHAPES)
DIGITS = "0123456789"
LONGEST_HOLD = 32
"""Most patches that a card is held for."""

_FONT = (
    *("111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001"),
    *("111100111001111", "111100111101111", "111001001001001", "111101111101111", "111101111001111"),
)
"""The digits, three dots wide and five high."""
_DOT = 5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Card:
    """A card: number of its key, 0 to 511, and its digit."""

    key: int
    digit: int

    @property
    def parts(self) -> tuple[int, int, int]:
        """Ground, colour and shape as numbers of 0 to 7."""
        return self.key // 64, self.key // 8 % 8, self.key % 8

    @property
    def words(self) -> str:
        """The key in words, such as ``teal red ring``."""
        ground, colour, shape = self.parts
        return f"{list(GROUNDS)[ground]} {list(COLOURS)[colour]} {SHAPES[shape]}"


@dataclass(frozen=True)
class Clip:
    """What a video shows.

    Attributes:
        cards: the cards, in the order of their showing; keys are distinct.
        shown: for each patch the number of its card in ``cards``, or -1 for a plain colour.
    """

    cards: list[Card]
    shown: list[int]


def draw_clip(rng: random.Random, patches: int, cards: int) -> Clip:
    """Draw cards and their places.

    Args:
        rng: source of everything.
        patches: of the video.
        cards: how many, at most 512 and ``patches``. A card is held for 1, 2, 4 ... patches, up to 32
            or what leaves half of the video plain; where that does not go, each is held for one.

    Raises:
        ValueError: the cards do not fit.
    """
    if not 0 < cards <= min(KEYS, patches):
        raise ValueError(f"{cards} cards do not fit in {patches} patches, or there are no such keys")
    holds = [1]
    while (
        holds[-1] < LONGEST_HOLD
        and cards * (sum(holds) + 2 * holds[-1]) <= (len(holds) + 1) * patches / 2
    ):
        holds.append(2 * holds[-1])
    chosen = [Card(key, rng.randrange(10)) for key in rng.sample(range(KEYS), cards)]
    held = [rng.choice(holds) for _ in chosen]
    spare = patches - sum(held)
    while spare < 0:  # rare: the draw came out above its mean
        longest = held.index(max(held))
        held[longest] //= 2
        spare = patches - sum(held)
    gaps = sorted(rng.randrange(spare + 1) for _ in chosen)
    shown: list[int] = []
    for number, (hold, gap) in enumerate(zip(held, gaps, strict=True)):
        before = gap - (gaps[number - 1] if number else 0)
        shown += [-1] * before + [number] * hold
    return Clip(chosen, shown + [-1] * (patches - len(shown)))


def draw_options(rng: random.Random, digit: int) -> list[int]:
    """Four different digits in random order, the right one among them."""
    others = [other for other in range(10) if other != digit]
    options = [digit, *rng.sample(others, 3)]
    rng.shuffle(options)
    return options


def card_frame(card: Card, shift: tuple[int, int] = (0, 0)) -> Pixels:
    """A card's frame, uint8 ``[56, 56, 3]``, its shape and digit moved by ``shift`` (down, right)."""
    ground, colour, shape = card.parts
    frame = np.empty((SIZE, SIZE, 3), np.uint8)
    frame[:] = list(GROUNDS.values())[ground]
    frame[np.roll(_shape_mask(shape), shift, (0, 1))] = list(COLOURS.values())[colour]
    frame[np.roll(_digit_mask(card.digit), shift, (0, 1))] = 255
    return frame


def plain_frame(rng: random.Random) -> Pixels:
    """A frame of one random colour."""
    frame = np.empty((SIZE, SIZE, 3), np.uint8)
    frame[:] = [rng.randrange(256) for _ in range(3)]
    return frame


def clip_frames(clip: Clip, rng: random.Random) -> Pixels:
    """The frames of a clip, two for each patch: uint8 ``[2 * patches, 56, 56, 3]``.

    Each stretch of a card is shifted by up to a pixel; every plain patch has a colour of its own.
    """
    frames = np.empty((len(clip.shown), 2, SIZE, SIZE, 3), np.uint8)
    before, held = -1, np.empty(0, np.uint8)
    for patch, number in enumerate(clip.shown):
        if number >= 0 and number != before:
            held = card_frame(clip.cards[number], (rng.randint(-1, 1), rng.randint(-1, 1)))
        frames[patch] = held if number >= 0 else plain_frame(rng)
        before = number
    return frames.reshape(-1, SIZE, SIZE, 3)


@cache
def _shape_mask(shape: int) -> NDArray[np.bool_]:
    """Where a shape is, in the left half: bool ``[56, 56]``."""
    down, right = np.mgrid[0:SIZE, 0:SIZE]
    y, x = down - 27.5, right - 14.5
    masks = {
        "square": (abs(x) <= 11) & (abs(y) <= 11),
        "disc": x**2 + y**2 <= 144,
        "triangle": (y <= 11) & (y >= -12) & (abs(x) <= (y + 13) / 2),
        "diamond": abs(x) + abs(y) <= 13,
        "cross": ((abs(x) <= 4) | (abs(y) <= 4)) & (abs(x) <= 12) & (abs(y) <= 12),
        "ring": (x**2 + y**2 <= 150) & (x**2 + y**2 >= 56),
        "bar": (abs(x) <= 12) & (abs(y) <= 4),
        "pillar": (abs(x) <= 4) & (abs(y) <= 14),
    }
    return np.asarray(masks[SHAPES[shape]])


@cache
def _digit_mask(digit: int) -> NDArray[np.bool_]:
    """Where a digit is, in the right half: bool ``[56, 56]``."""
    dots = np.array([dot == "1" for dot in _FONT[digit]]).reshape(5, 3)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[15:40, 34:49] = np.kron(dots, np.ones((_DOT, _DOT), bool))
    return mask
