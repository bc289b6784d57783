"""Figures as inline SVG: small, without anything of the day or the machine, text as text."""

from __future__ import annotations

import io
import re

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# In the order that they are taken out. A style for everything would reach the page around the figure,
# and fonts are the page's; a group's name would not be the only one of its kind.
_UNWANTED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"^.*?(?=<svg)",
        r"\s*<metadata>.*?</metadata>",
        r"\s*<style[^>]*>.*?</style>",
        r'(?<=<g) id="[\w.]+"',
        r" font-family: [^;\"]*;?",
    )
)
_ATTRIBUTE = re.compile(r'="[^"]*"')
_DIGITS = re.compile(r"(\.\d\d)\d+")


def svg_text(figure: Figure, name: str) -> Markup:
    """A figure as an ``<svg>`` element that fills its place.

    Args:
        figure: the figure.
        name: unique on the page: the element's inner names are made from it, and it is what those are
            told who cannot see the figure.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for unwanted in _UNWANTED:
        text = unwanted.sub("", text)
    text = _ATTRIBUTE.sub(lambda found: _DIGITS.sub(r"\1", found[0]), text)
    head, _, rest = text.partition(">")
    head = re.sub(r' (?:width|height|xmlns)="[^"]*"', "", head)
    safe = Markup('{} role="img" aria-label="{}">').format(Markup(head), name)
    return safe + Markup(re.sub(r"\n\s*", "\n", rest))
