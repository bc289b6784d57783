"""HELMET's random choices, reproduced from private generators.

``datasets``' ``shuffle(seed)`` is NumPy's ``default_rng(seed).permutation``; Python's global
``random.seed(42)`` gives the same numbers as ``random.Random(42)`` (HELMET ``data.py``, 4526dfb).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np


def shuffled(count: int, seed: int) -> list[int]:
    """Order of ``count`` rows after ``Dataset.shuffle(seed)``."""
    return [int(i) for i in np.random.default_rng(seed).permutation(count)]


HELMET_ROWS = 100
"""Rows of a file that HELMET scores at most (``max_test_samples``); ICL has a number of its own."""


def chosen_rows(count: int, seed: int, samples: int) -> list[int]:
    """Rows to use of a file: HELMET's permutation, its first 100, of these the first ``samples``."""
    return shuffled(count, seed)[: min(HELMET_ROWS, samples)]


def text_seed(text: object, offset: int = 0) -> int:
    """Seed that belongs to a text: its SHA-256 plus ``offset``, modulo 2**31."""
    digest = hashlib.sha256(str(text).encode("utf-8")).hexdigest()
    return (int(digest, 16) + offset) % 2**31


def split_off_test(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """``train_test_split``: row numbers of train and test."""
    order = shuffled(count, seed)
    size = int(np.ceil(share * count))
    return order[size:], order[:size]


def sample_keys(keys: Iterable[Any], limit: int, seed: int) -> list[Any]:
    """At most ``limit`` of the distinct keys, in the order they are drawn."""
    distinct = sorted(set(keys))
    return random.Random(seed).sample(distinct, min(limit, len(distinct)))


def depth_order(row_keys: Sequence[Hashable], keys: Sequence[Hashable]) -> list[int]:
    """All rows of the keys, ordered so that every prefix is a fair subset.

    The first ``len(keys)`` rows are one variant of each key, cycling through the depths; the next
    as many are the next variant of each, and so on. A file repeats a question once per gold depth.

    Args:
        row_keys: key of each row, in file order.
        keys: the drawn keys.
    """
    variants: dict[Hashable, list[int]] = {key: [] for key in keys}
    for row, key in enumerate(row_keys):
        if key in variants:
            variants[key].append(row)
    rounds = max((len(rows) for rows in variants.values()), default=0)
    return [
        rows[(i + turn) % len(rows)]
        for turn in range(rounds)
        for i, rows in enumerate(variants.values())
        if turn < len(rows)
    ]


def first_distinct(order: Iterable[int], keys: Sequence[Hashable], count: int) -> list[int]:
    """The first ``count`` rows of an order whose keys have not been seen before."""
    seen: dict[Hashable, int] = {}
    for row in order:
        seen.setdefault(keys[row], row)
        if len(seen) == count:
            break
    return list(seen.values())


def balance(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Rows with equally many of each label, in rounds of one row per label.

    Args:
        labels: label of each row; labels take part in order of first occurrence.
        count: rows wanted; they repeat where a label has too few.
        seed: of the one generator behind all draws.
    """
    rng = random.Random(seed)
    groups: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        groups.setdefault(label, []).append(row)
    rounds = -(-count // len(groups))
    picked: list[list[int]] = [[] for _ in range(rounds)]
    for rows in groups.values():
        chosen = rng.sample(range(len(rows)), rounds % len(rows))
        while len(chosen) < rounds:
            chosen += rng.sample(range(len(rows)), min(rounds - len(chosen), len(rows)))
        for i, place in enumerate(chosen):
            picked[i].append(rows[place])
    for one in picked:
        rng.shuffle(one)
    return [row for one in picked for row in one][:count]


def label_map(classes: int, seed: int) -> list[int]:
    """The integer shown for each label."""
    shown = list(range(classes))
    random.Random(seed).shuffle(shown)
    return shown


def burned_draws(count: int, pool: int, size: int, seed: int) -> Iterator[list[int]]:
    """One draw of ``size`` out of ``pool`` for each of ``count`` rows, from one generator."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.sample(range(pool), size)
