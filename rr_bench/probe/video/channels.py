"""How the video probe's hidden state begins: which channels hold what, and the code of each word.

Words of one kind have orthonormal codes in that kind's channels. A video token of a card holds the
codes of its three key words and of its digit, and a flag; that is what the vision tower is trained
towards. Behind them lie four slots for the words looked back at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rr_bench.probe.video.tokenizer import SPECIAL
from rr_bench.tasks.prompts.card_questions import ASK, CHOOSE, LETTERS, MARK, OPEN
from rr_bench.tasks.synthetic.cards import COLOURS, DIGITS, GROUNDS, SHAPES, Card

HIDDEN = 384
CONSTANT, FLAG = 0, 1
WIDTH = 32
KINDS: dict[str, tuple[str, ...]] = {
    "ground": tuple(GROUNDS),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "digit": tuple(DIGITS),
    "letter": tuple(LETTERS),
    "other": (ASK, MARK, OPEN, CHOOSE, *SPECIAL),
}
CHANNELS = {kind: slice(2 + i * WIDTH, 2 + (i + 1) * WIDTH) for i, kind in enumerate(KINDS)}
CARRIED = ("ground", "colour", "shape", "digit", "letter")
"""Kinds of words that slots hold."""
SLOT, SLOTS = 40, 4
SEEN = 0.8
"""Length of a code in a video token; in a word's embedding it is 1."""


def slot(number: int) -> slice:
    """Channels of the word ``number + 1`` tokens before."""
    start = 2 + len(KINDS) * WIDTH + number * SLOT
    return slice(start, start + SLOT)


def codes(seed: int) -> dict[str, Tensor]:
    """Orthonormal rows ``[words, 32]`` of each kind."""
    random = torch.Generator().manual_seed(seed)
    return {
        kind: torch.linalg.qr(torch.randn(WIDTH, len(words), generator=random))[0].T.contiguous()
        for kind, words in KINDS.items()
    }


def slot_codes(seed: int) -> dict[str, Tensor]:
    """Orthonormal rows ``[words, 40]`` of each carried kind, all kinds orthogonal to one another."""
    random = torch.Generator().manual_seed(seed + 1)
    total = sum(len(KINDS[kind]) for kind in CARRIED)
    rows = torch.linalg.qr(torch.randn(SLOT, total, generator=random))[0].T.contiguous()
    parts = rows.split([len(KINDS[kind]) for kind in CARRIED])
    return dict(zip(CARRIED, parts, strict=True))


def video_target(cards: list[Card | None], table: dict[str, Tensor]) -> Tensor:
    """What a video token of each card should be, ``None`` for a plain frame: ``[cards, 384]``."""
    wanted = torch.zeros(len(cards), HIDDEN)
    wanted[:, CONSTANT] = 1.0
    for row, card in zip(wanted, cards, strict=True):
        if card is None:
            continue
        row[FLAG] = 1.0
        for kind, number in zip(KINDS, (*card.parts, card.digit), strict=False):
            row[CHANNELS[kind]] = SEEN * table[kind][number]
    return wanted
