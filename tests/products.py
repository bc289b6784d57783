"""Products of settings: a few combinations are always tested, the rest by ``make test-exhaustive``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

Param = type(pytest.param())


def few_of(axes: Mapping[str, Sequence[Any]], rows: int = 0) -> pytest.MarkDecorator:
    """Parametrise with all combinations of values, marking as ``exhaustive`` what need not always run.

    What always runs holds every value: those of the longest axis in turn, with changing others. Values
    that carry marks of their own, such as a dtype for GPUs, are left to the rest.

    Args:
        axes: values by argument, or ``pytest.param`` of one; of several arguments (``"case,stride"``)
            they are tuples.
        rows: how many combinations always run; at least as many as the longest axis has values.
    """
    params = [[_param(value, "," in names) for value in values] for names, values in axes.items()]
    always = [[place for place, one in enumerate(values) if not one.marks] for values in params]
    chosen = set(_covering(always, rows))
    found = []
    for places in product(*(range(len(values)) for values in params)):
        parts = [values[place] for values, place in zip(params, places, strict=True)]
        marks = [mark for one in parts for mark in one.marks]
        marks += [] if places in chosen else [pytest.mark.exhaustive]
        taken = [value for one in parts for value in one.values]
        found.append(pytest.param(*taken, marks=marks, id="-".join(str(one.id) for one in parts)))
    return pytest.mark.parametrize(",".join(axes), found)


def _param(value: Any, several: bool) -> Any:
    """A value of an axis with its marks and its name."""
    if not isinstance(value, Param):
        value = pytest.param(*value) if several else pytest.param(value)
    name = value.id or "-".join(map(str, value.values))
    return pytest.param(*value.values, marks=value.marks, id=name)


def _covering(axes: list[list[int]], rows: int) -> Iterator[tuple[int, ...]]:
    """Combinations in which every place comes, each shorter axis in another rhythm."""
    order = sorted(range(len(axes)), key=lambda axis: -len(axes[axis]))
    for row in range(max(rows, len(axes[order[0]]))):
        taken = [0] * len(axes)
        for shift, axis in enumerate(order):
            size = len(axes[axis])
            taken[axis] = axes[axis][(row + shift * (row // size)) % size]
        yield tuple(taken)
