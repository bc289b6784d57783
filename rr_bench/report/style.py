"""One look for every figure: sizes for a one-column page, colours that survive colour blindness."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

from rr_bench.report.load import natural

WIDTH = 3.4
"""Inches: one column of a two-column page."""

DPI = 200

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
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}

# Colour and marker of a method, in every figure. The colours are Okabe and Ito's (2008), distinct under
# the common forms of colour blindness, then Tol's (2021); of methods of one paper the marker differs,
# bounds are grey.
_FAMILY = {
    "full": ("#000000", "o"),
    "rr": ("#0072B2", "o"),
    "rr_plus": ("#332288", "h"),
    "xattention": ("#D55E00", "s"),
    "minference": ("#009E73", "D"),
    "minference_native": ("#009E73", "d"),
    "flexprefill": ("#CC79A7", "^"),
    "flexprefill_no_minimum": ("#CC79A7", "v"),
    "streaming": ("#E69F00", "P"),
    "trianglemix": ("#56B4E9", "X"),
    "flashprefill": ("#882255", "p"),
    "cosa": ("#999933", "*"),
    "oracle": ("#8A8A8A", "<"),
    "oracle_max": ("#4D4D4D", ">"),
}
_SECOND = ("minference_native", "flexprefill_no_minimum")
"""Methods that share another one's colour: dashed and hollow where that one is not."""
# Of Tol's muted scheme (2021) those unlike the ones above, and more; every other method has one.
_SPARE = ("#117733", "#8C6D31", "#AA4499", "#661100", "#C0A040")
_SPARE_MARKERS = ("H", "8", "s", "^", "D", "v")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_FILLS = ("full", "none", "left", "top", "right", "bottom")

PARTS = {"selection": "#3F3F3F", "attention": "#C4C4C4"}
"""Colours of the parts of a method's time, which are no methods."""

DENSITIES = ("#3F007D", "#CBC9E2")
"""Ends of the scale of a kernel's densities, from the highest on."""

REFERENCES: dict[str, dict[str, Any]] = {
    "dense:cudnn": {"color": "#000000", "linestyle": "-", "marker": "."},
    "dense:fa2": {"color": "#777777", "linestyle": (0, (5, 1.6)), "marker": "."},
    "dense:fa3": {"color": "#4D4D4D", "linestyle": "-", "marker": "^"},
    "dense:fa4": {"color": "#A0A0A0", "linestyle": "-", "marker": "v"},
    "matmul": {"color": "#B22222", "linestyle": (0, (1.2, 1.2)), "marker": ""},
    "other": {"color": "#777777", "linestyle": (0, (5, 1.2, 1.2, 1.2)), "marker": "."},
}
"""Look of what methods are measured against; ``other`` is any dense back end not named here."""


def family_looks(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of methods by name.

    A method that has none in the table above gets them from a hash of its name, so it keeps them from
    figure to figure; only where two such names in one store fall on one colour the later one moves on.
    """
    looks = {}
    taken: set[str] = set()
    for family in sorted(set(families)):
        if family in _FAMILY:
            looks[family] = _FAMILY[family]
            continue
        first = int(hashlib.sha256(family.encode()).hexdigest(), 16)
        turned = [_SPARE[(first + i) % len(_SPARE)] for i in range(len(_SPARE))]
        free = [one for one in turned if one not in taken]
        color = (free or turned)[0]
        taken.add(color)
        # Once the colours recur, another marker tells them apart.
        turn = 0 if free else len(looks)
        looks[family] = color, _SPARE_MARKERS[(_SPARE.index(color) + turn) % len(_SPARE_MARKERS)]
    return looks


def method_styles(methods: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """How every method label is drawn.

    A method has one colour and one marker in all figures. Its variants, in the order of their labels,
    differ in how the marker is filled and in dashes.

    Args:
        methods: pairs of method name and label, for example ``("rr", "rr(tau=0.9, stride=8)")``.

    Returns:
        Per label, keyword arguments for ``Axes.plot``.
    """
    families: dict[str, set[str]] = {}
    for family, label in methods:
        families.setdefault(family, set()).add(label)
    looks = family_looks(families)
    styles = {}
    for family, labels in families.items():
        color, marker = looks[family]
        for i, label in enumerate(sorted(labels, key=natural), family in _SECOND):
            styles[label] = {
                "color": color,
                "marker": marker,
                "linestyle": _DASHES[i % len(_DASHES)],
                "fillstyle": _FILLS[i % len(_FILLS)],
                "markerfacecoloralt": "white",
                "markeredgecolor": color,
                "markeredgewidth": 0.7,
            }
    return styles


def scale(ends: Sequence[str], count: int) -> list[str]:
    """Colours from one end to the other in ``count`` steps."""
    colors = LinearSegmentedColormap.from_list("scale", list(ends))
    return [to_hex(colors(place)) for place in np.linspace(0, 1, count)]


def legend_labels(labels: list[str]) -> dict[str, str]:
    """Short names for a legend: without the settings that all of a method's labels share."""
    parts = {label: split_label(label) for label in labels}
    short = {}
    for label, (name, pairs, rest) in parts.items():
        same = [other for other, (n, _, _) in parts.items() if n == name]
        told = [f"{k}={v}" for k, v in pairs.items() if any(parts[o][1].get(k) != v for o in same)]
        short[label] = (f"{name} ({', '.join(told)})" if told else name) + rest
    if len(set(short.values())) < len(labels):
        short = {label: label for label in labels}
    shared = {rest for _, _, rest in parts.values()}
    if len(labels) > 1 and len(shared) == 1:
        # A legend need not say of every method what holds for all; its title does.
        short = {label: text.removesuffix(next(iter(shared))) for label, text in short.items()}
    return short


def shared_rest(labels: Iterable[str]) -> str:
    """What :func:`legend_labels` leaves out behind every label, as a legend's title."""
    rests = [split_label(label)[2] for label in labels]
    text = rests[0] if len(rests) > 1 and len(set(rests)) == 1 else ""
    return text.replace(" @ ", "at a density of about ").removeprefix(", ")


def split_label(label: str) -> tuple[str, dict[str, str], str]:
    """Name, settings and what follows them: ``rr(tau=0.9), keep none`` has all three."""
    name, _, inside = label.partition("(")
    settings, _, rest = inside.rpartition(")")
    if not settings:
        found = re.match(r"(.*?)((?:, | @ ).*)?$", label)
        return (found[1], {}, found[2] or "") if found else (label, {}, "")
    pairs = (pair.partition("=") for pair in settings.split(", "))
    return name, {key: value for key, _, value in pairs}, rest


def length_label(tokens: int) -> str:
    """8192 -> "8K"; a length that is no whole number of 1024 is written out."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)
