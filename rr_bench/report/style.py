"""One look for every figure: sizes for a one-column page, colours that survive colour blindness."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from rr_bench.report.load import natural

WIDTH = 3.4
"""Inches: one column of a two-column page."""

DPI = 300

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
}

# Colour, marker and first dashes. The palette is Okabe and Ito's (2008), distinct under the common
# forms of colour blindness; bounds are grey.
_FAMILY = {
    "full": ("#000000", "o", 0),
    "rr": ("#0072B2", "o", 0),
    "xattention": ("#D55E00", "s", 0),
    "minference": ("#009E73", "D", 0),
    "minference_native": ("#009E73", "d", 1),
    "flexprefill": ("#CC79A7", "^", 0),
    "flexprefill_no_minimum": ("#CC79A7", "v", 1),
    "streaming": ("#E69F00", "P", 0),
    "trianglemix": ("#56B4E9", "X", 0),
    "oracle": ("#8A8A8A", "<", 2),
    "oracle_max": ("#4D4D4D", ">", 2),
}
_SPARE = (("#8C6D31", "h", 0), ("#6A51A3", "p", 0), ("#843C39", "*", 0), ("#637939", "H", 0))
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#8C6D31")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_DARKEST, _LIGHTEST = -0.35, 0.6

REFERENCES: dict[str, dict[str, Any]] = {
    "dense:cudnn": {"color": "#000000", "linestyle": "-", "marker": "."},
    "dense:fa2": {"color": "#777777", "linestyle": (0, (5, 1.6)), "marker": "."},
    "dense:fa3": {"color": "#4D4D4D", "linestyle": "-", "marker": "^"},
    "dense:fa4": {"color": "#A0A0A0", "linestyle": "-", "marker": "v"},
    "matmul": {"color": "#B22222", "linestyle": (0, (1.2, 1.2)), "marker": ""},
    "other": {"color": "#777777", "linestyle": (0, (5, 1.2, 1.2, 1.2)), "marker": "."},
}
"""Look of what methods are measured against; ``other`` is any dense back end not named here."""


def method_styles(methods: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes for every method label.

    A family has one hue in all figures. Its variants, in the order of their labels, differ in
    lightness, marker and dashes, so that they can be told apart in grey too. Where three or more
    variants of a single family are all there is, they have hues of their own instead.

    Args:
        methods: pairs of family name and label, for example ``("rr", "rr(tau=0.9, stride=8)")``.

    Returns:
        Per label, keyword arguments for ``Axes.plot``.
    """
    families: dict[str, set[str]] = {}
    for family, label in methods:
        families.setdefault(family, set()).add(label)
    unknown = [family for family in sorted(families) if family not in _FAMILY]
    looks = _FAMILY | {family: _spare(i) for i, family in enumerate(unknown)}
    alone = len([family for family in families if family != "full"]) == 1
    styles = {}
    for family, labels in families.items():
        color, marker, dashes = looks[family]
        hues = [color, *(other for other in _HUES if other != color)]
        own_hues = alone and 2 < len(labels) <= len(hues)
        markers = [marker, *(other for other in _MARKERS if other != marker)]
        shaded = hues if own_hues else shades(color, len(labels))
        for i, label in enumerate(sorted(labels, key=natural)):
            styles[label] = {
                "color": shaded[i],
                "marker": markers[i % len(markers)],
                "linestyle": _DASHES[(dashes + i) % len(_DASHES)],
                "markeredgecolor": shaded[i] if own_hues else color,
                "markeredgewidth": 0.7,
            }
    return styles


def _spare(number: int) -> tuple[str, str, int]:
    """Look of a family that has none of its own: spare colours, with other markers once they recur."""
    color, marker, dashes = _SPARE[number % len(_SPARE)]
    again = number // len(_SPARE)
    return color, marker if not again else _MARKERS[(again - 1) % len(_MARKERS)], dashes + again


def shades(color: str, count: int) -> list[str]:
    """A colour from dark to light in ``count`` steps; the colour itself if one is enough."""
    if count == 1:
        return [color]
    step = (_LIGHTEST - _DARKEST) / (count - 1)
    return [_shade(color, _DARKEST + i * step) for i in range(count)]


def legend_labels(labels: list[str]) -> dict[str, str]:
    """Short names for a legend: without the settings that all of a method's labels share."""
    parts = {label: split_label(label) for label in labels}
    short = {}
    for label, (name, pairs, rest) in parts.items():
        same = [other for other, (n, _, _) in parts.items() if n == name]
        told = [f"{k}={v}" for k, v in pairs.items() if any(parts[o][1].get(k) != v for o in same)]
        short[label] = (f"{name} ({', '.join(told)})" if told else name) + rest
    return short if len(set(short.values())) == len(labels) else {label: label for label in labels}


def split_label(label: str) -> tuple[str, dict[str, str], str]:
    """Name, settings and what follows them: ``rr(tau=0.9), keep none`` has all three."""
    name, _, inside = label.partition("(")
    settings, _, rest = inside.rpartition(")")
    if not settings:
        name, comma, rest = label.partition(", ")
        return name, {}, comma + rest
    pairs = (pair.partition("=") for pair in settings.split(", "))
    return name, {key: value for key, _, value in pairs}, rest


def length_label(tokens: int) -> str:
    """8192 -> "8K"; a length that is no whole number of 1024 is written out."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def _shade(color: str, amount: float) -> str:
    """Mix a colour with white (``amount`` up to 1) or with black (down to -1)."""
    target, share = (1.0, amount) if amount > 0 else (0.0, -amount)
    red, green, blue = (channel + (target - channel) * share for channel in to_rgb(color))
    return to_hex((red, green, blue))
