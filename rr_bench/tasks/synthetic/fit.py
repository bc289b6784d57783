"""Generated rows: as large as fits the token budget, without a search.

A sample has a size (pairs, sentences or words of its haystack). Two probe samples give the tokens
of the frame and of one unit; the size that should fill the budget is tried, corrected once upwards
if it leaves room, then decremented until the prompt fits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from rr_bench.tasks.prompts.rows import Draft, Row, make_row
from rr_bench.tasks.prompts.tokens import Tokenizer, count_tokens
from rr_bench.tasks.settings import Settings
from rr_bench.tasks.synthetic.draw import row_rng

ROUND_TO = 128
TRIALS = 8
SLACK = 1.05
"""Random keys differ in tokens: the smallest length leaves this much more than the worst trial."""


@dataclass(frozen=True)
class Generator:
    """How to draw one dataset's samples.

    Attributes:
        dataset: task name; also salts the seeds.
        generation: tokens of the length kept for the answer.
        make: ``(rng, index, size) -> Draft``; the same arguments give the same draft.
        minimum: smallest size that is still the task.
        probe: units added to ``minimum`` to measure the tokens of one.
        maximum: largest size there is material for; None if there is no end.
    """

    dataset: str
    generation: int
    make: Callable[[random.Random, int, int], Draft]
    minimum: int
    probe: int = 500
    maximum: int | None = None


@dataclass(frozen=True)
class Cost:
    """Tokens of a sample of ``size`` units: about ``frame + size * unit``."""

    frame: float
    unit: float


def measure(generator: Generator, tokenizer: Tokenizer) -> Cost:
    """Tokens of the frame and of one unit, from a small and a large probe sample."""
    large = generator.minimum + generator.probe
    if generator.maximum is not None:
        large = max(generator.minimum + 1, min(large, generator.maximum))
    counts = [
        count_tokens(tokenizer, generator.make(random.Random("recall-probe"), 0, size).prompt)
        for size in (generator.minimum, large)
    ]
    unit = (counts[1] - counts[0]) / (large - generator.minimum)
    return Cost(counts[0] - generator.minimum * unit, unit)


def smallest_length(generator: Generator, tokenizer: Tokenizer) -> int:
    """The smallest length that surely works, a multiple of 128."""
    trials = (
        generator.make(random.Random(f"recall-smallest-{i}"), i, generator.minimum)
        for i in range(TRIALS)
    )
    worst = max(count_tokens(tokenizer, draft.prompt) for draft in trials)
    return math.ceil((SLACK * worst + generator.generation) / ROUND_TO) * ROUND_TO


def check_length(generator: Generator, settings: Settings) -> None:
    """Refuse a length under the template's own size.

    Raises:
        ValueError: naming ``lengths`` and the smallest that works.
    """
    smallest = smallest_length(generator, settings.tokenizer)
    if settings.length < smallest:
        raise ValueError(
            f"`lengths`={settings.length} is too small for {generator.dataset} with this tokenizer: "
            f"the smallest that works is {smallest}"
        )


def fit(
    generator: Generator,
    settings: Settings,
    draw: Callable[[int], Draft],
    cost: Cost,
) -> tuple[Draft, int]:
    """The largest draft found that fits, and its tokens.

    Args:
        generator: limits of the size.
        settings: length and tokenizer.
        draw: size to draft, the same draft every time.
        cost: from :func:`measure`.

    Raises:
        ValueError: not even the minimum size fits.
    """
    budget = settings.length - generator.generation
    limit = math.inf if generator.maximum is None else generator.maximum
    size = int(min(limit, max(generator.minimum, (budget - cost.frame) // cost.unit)))
    draft = draw(size)
    tokens = count_tokens(settings.tokenizer, draft.prompt)
    room = int((budget - tokens) / cost.unit)
    if room * cost.unit > max(2 * cost.unit, 0.005 * budget) and size < limit:
        size = int(min(limit, size + room))
        draft = draw(size)
        tokens = count_tokens(settings.tokenizer, draft.prompt)
    while tokens > budget:
        size -= math.ceil((tokens - budget) / cost.unit)
        if size < generator.minimum:
            raise ValueError(
                f"`lengths`={settings.length} cannot hold a {generator.dataset} sample; use at least "
                f"{smallest_length(generator, settings.tokenizer)}"
            )
        draft = draw(size)
        tokens = count_tokens(settings.tokenizer, draft.prompt)
    return draft, tokens


def fitted_row(generator: Generator, settings: Settings, cost: Cost, index: int, source: str) -> Row:
    """Row ``index``: it depends on the seed, the dataset, the length and the index only.

    Raises:
        ValueError: a sample of minimum size does not fit.
    """

    def draw(size: int) -> Draft:
        rng = row_rng(generator.dataset, settings.length, settings.seed, index)
        return generator.make(rng, index, size)

    draft, tokens = fit(generator, settings, draw, cost)
    budget = settings.length - generator.generation
    return make_row(
        generator.dataset, settings, draft, index=index, source=source, input_len=tokens, budget=budget
    )


def generate_rows(generator: Generator, settings: Settings) -> list[Row]:
    """``settings.samples`` rows; the first n are the same for any number of samples.

    Raises:
        ValueError: a sample of minimum size does not fit; :func:`check_length` tells beforehand.
    """
    cost = measure(generator, settings.tokenizer)
    return [fitted_row(generator, settings, cost, i, "generated") for i in range(settings.samples)]
