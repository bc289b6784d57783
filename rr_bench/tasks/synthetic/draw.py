"""Random keys and values of the generated tasks, from private generators only."""

from __future__ import annotations

import random
import uuid

from rr_bench.tasks.synthetic.words import ADJECTIVES, NOUNS


def row_rng(dataset: str, length: int, seed: int, index: int) -> random.Random:
    """The generator of one row: rows depend on nothing else, so the first n are always the same."""
    return random.Random(f"recall-{dataset}-{length}-{seed}-{index}")


def random_uuid(rng: random.Random) -> str:
    """A version-4 UUID, 36 characters."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def random_number(rng: random.Random) -> str:
    """Seven digits without a leading zero, as RULER draws them."""
    return str(rng.randint(1_000_000, 9_999_999))


def word_keys(rng: random.Random, count: int) -> list[str]:
    """``count`` distinct ``adjective-noun`` keys.

    Raises:
        ValueError: more keys than the word lists can make.
    """
    available = len(ADJECTIVES) * len(NOUNS)
    if count > available:
        raise ValueError(f"`lengths` asks for {count} word keys, the word lists make {available}")
    picks = rng.sample(range(available), count)
    return [f"{ADJECTIVES[i % len(ADJECTIVES)]}-{NOUNS[i // len(ADJECTIVES)]}" for i in picks]
