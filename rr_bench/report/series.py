"""Which lines a figure shows, so that a store of many methods stays legible; tables show all.

Up to :data:`MOST` sparse methods, a figure shows every one. Beyond that:

- a *control* names a setting that not all labels of its method name, such as ``offset=mean`` beside
  ``rr(tau=0.9, stride=8)``: labels name whatever differs from a method's defaults. Controls have a
  figure of their own, with the method that they vary;
- figures by length show a method at its :data:`PUBLISHED` settings, or at all where none matches;
- figures against density join what differs in a method's knob alone (:data:`KNOBS`).
"""

from __future__ import annotations

from collections.abc import Iterable

from rr_bench.report.style import split_label

MOST = 10
"""Sparse lines that one figure can hold."""

KNOBS = ("tau", "gamma", "ratio", "window")
"""The settings that buy density; every method has one of them at most."""

PUBLISHED: dict[str, dict[str, tuple[str, ...]]] = {
    "rr": {"tau": ("0.95", "0.9"), "stride": ("8",)},
    "xattention": {"tau": ("0.9",), "stride": ("8",)},
    "flexprefill": {"gamma": ("0.95",)},
    "flexprefill_no_minimum": {"gamma": ("0.95",)},
    "minference": {"ratio": ("1.0",)},
    "minference_native": {"ratio": ("1.0",)},
    "trianglemix": {"window": ("512",)},
    "streaming": {"window": ("3968",)},
    "oracle": {"tau": ("0.9",)},
    "oracle_max": {"tau": ("0.9",)},
}
"""By method the settings at which figures by length show it; of the bounds one that rr shares."""


def control_bases(labels: Iterable[str]) -> dict[str, str]:
    """Every control among the labels and the label that it varies."""
    parts = {label: split_label(label) for label in labels}
    shared: dict[str, set[str]] = {}
    for name, settings, _ in parts.values():
        shared[name] = shared.get(name, set(settings)) & set(settings)
    bases = {}
    for label, (name, settings, rest) in parts.items():
        common = {key: value for key, value in settings.items() if key in shared[name]}
        same = [other for other, found in parts.items() if found == (name, common, rest)]
        if same and common != settings:
            bases[label] = same[0]
    return bases


def main_lines(labels: Iterable[str]) -> list[str]:
    """The labels that a figure by length shows."""
    every = list(labels)
    if len(every) <= MOST:
        return every
    rest = _without_controls(every)
    return rest if len(rest) <= MOST else _published(rest)


def control_lines(labels: Iterable[str]) -> list[str]:
    """Controls that :func:`main_lines` leaves out, and what they vary."""
    every = list(labels)
    bases = control_bases(every) if len(every) > MOST else {}
    return [label for label in every if label in bases or label in bases.values()]


def density_lines(labels: Iterable[str]) -> dict[str, str]:
    """Labels that a figure against density shows, each with the name of its line."""
    every = list(labels)
    shown = every if len(every) <= MOST else _without_controls(every)
    lines = {label: _line_name(label) for label in shown}
    if len(set(lines.values())) <= MOST:
        return lines
    kept = _published(list(dict.fromkeys(lines.values())))
    return {label: line for label, line in lines.items() if line in kept}


def _without_controls(labels: list[str]) -> list[str]:
    bases = control_bases(labels)
    return [label for label in labels if label not in bases]


def _line_name(label: str) -> str:
    """A label without its knob."""
    name, settings, rest = split_label(label)
    inside = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in KNOBS)
    return (f"{name}({inside})" if inside else name) + rest


def _published(labels: list[str]) -> list[str]:
    """Labels at published settings; all labels of a method that has none of those."""
    matching = {label for label in labels if _is_published(label)}
    covered = {split_label(label)[0] for label in matching}
    return [label for label in labels if label in matching or split_label(label)[0] not in covered]


def _is_published(label: str) -> bool:
    name, settings, _ = split_label(label)
    wanted = PUBLISHED.get(name, {})
    return all(settings[key] in values for key, values in wanted.items() if key in settings)
