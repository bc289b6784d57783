"""An endless, harmless essay: the haystack of ``niah_mv`` when no text file is given.

RULER hides the ``mv`` needles in essays that have to be downloaded. Offline, sentences are drawn
from a small grammar instead; scores on it are not comparable with RULER's, and the record names
the source.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from rr_bench.tasks.synthetic.words import ADJECTIVES, NOUNS, PLACES, VERBS

FRAMES = (
    "The {a} {n} {v} the {b} {m} {p} the {k}.",
    "A {a} {n} {v} every {m} {p} the {b} {k}.",
    "Nobody {v} the {a} {n} {p} the {k} because the {m} was {b}.",
    "When the {n} was {a}, the {m} {v} a {b} {k}.",
    "My {n} {v} the {m}, and the {a} {k} was {b}.",
)


def sentences(rng: random.Random) -> Iterator[str]:
    """Yield grammar sentences without end."""
    while True:
        a, b = rng.choice(ADJECTIVES), rng.choice(ADJECTIVES)
        n, m, k = rng.choice(NOUNS), rng.choice(NOUNS), rng.choice(NOUNS)
        frame = rng.choice(FRAMES)
        yield frame.format(a=a, b=b, n=n, m=m, k=k, v=rng.choice(VERBS), p=rng.choice(PLACES))
