"""The one error of settings, and the hint that ends its messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and the remedy."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the closest valid name, and all of them."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}(valid: {', '.join(names)})"
