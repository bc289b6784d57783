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

# Okabe and Ito's palette (2008): distinct under the common forms of colour blindness.
_FAMILY = {
    "full": "#000000",
    "rr": "#0072B2",
    "xattention": "#D55E00",
    "minference": "#009E73",
    "flexprefill": "#CC79A7",
}
_SPARE = ("#E69F00", "#56B4E9", "#8C6D31", "#6A51A3")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_SHADES = (-0.5, 0.0, 0.4, 0.7)


def method_styles(methods: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes for every method label.

    A family has one hue in all figures. Its variants, in the order of their labels, differ in
    lightness, marker and dashes, so that they can be told apart in grey too.

    Args:
        methods: pairs of family name and label, for example ``("rr", "rr(tau=0.9, stride=8)")``.

    Returns:
        Per label, keyword arguments for ``Axes.plot``.
    """
    families: dict[str, set[str]] = {}
    for family, label in methods:
        families.setdefault(family, set()).add(label)
    unknown = [family for family in sorted(families) if family not in _FAMILY]
    colors = _FAMILY | {family: _SPARE[i % len(_SPARE)] for i, family in enumerate(unknown)}
    return {
        label: {
            "color": _shade(colors[family], _SHADES[i % len(_SHADES)]),
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "markeredgecolor": colors[family],
            "markeredgewidth": 0.7,
        }
        for family, labels in families.items()
        for i, label in enumerate(sorted(labels, key=natural))
    }


def legend_labels(labels: list[str]) -> dict[str, str]:
    """Short names for a legend: of a method's settings only those that tell its variants apart."""
    settings = {label: _settings(label) for label in labels}
    short = {}
    for label, (name, pairs) in settings.items():
        others = [set(p) for lab, (n, p) in settings.items() if n == name and lab != label]
        told = [pair for pair in pairs if any(pair not in other for other in others)]
        short[label] = f"{name} ({', '.join(told)})" if told else name
    return short if len(set(short.values())) == len(labels) else {label: label for label in labels}


def _settings(label: str) -> tuple[str, list[str]]:
    """Name and ``key=value`` pairs of a method label."""
    name, _, inside = label.partition("(")
    return name, [pair for pair in inside.rstrip(")").split(", ") if pair]


def length_label(tokens: int) -> str:
    """8192 -> "8K"; a length that is no whole number of 1024 is written out."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def _shade(color: str, amount: float) -> str:
    """Mix a colour with white (``amount`` up to 1) or with black (down to -1)."""
    target, share = (1.0, amount) if amount > 0 else (0.0, -amount)
    red, green, blue = (channel + (target - channel) * share for channel in to_rgb(color))
    return to_hex((red, green, blue))
