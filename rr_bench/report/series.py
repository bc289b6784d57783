"""Which lines a figure shows, so that a store of many methods stays legible; tables show all.

A *line* is a method without its knob, the one setting that buys density: its points differ in that
alone. Labels name the knob and whatever differs from the method's file, so the plainest line of a
method is its published setting, and the others vary it. Up to :data:`MOST` sparse labels, a figure
shows every one. Beyond that:

- *controls*, labels that vary another one in settings beside the knob or in the always-kept blocks,
  have figures of their own;
- figures by length leave out labels measured at fewer than half of the lengths, such as calibrated
  ones, and go on in further figures of at most :data:`MOST` lines;
- figures against density show lines, in further figures too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import pandas as pd

from rr_bench.report.style import split_label

MOST = 8
"""Sparse lines that one panel can hold."""

NEAR = 5.0
"""Points of density between neighbouring settings of a line that count as one."""


def line_of(label: str, knob: str | None) -> str:
    """A label without its knob: the line by density that it is a point of."""
    name, settings, rest = split_label(label)
    inside = ", ".join(f"{key}={value}" for key, value in settings.items() if key != knob)
    return (f"{name}({inside})" if inside else name) + rest


def points(frame: pd.DataFrame) -> pd.Series:
    """What a row counts for: its series; of a setting chosen for one length, line and density.

    A calibration finds another setting at every length for one density. Settings of a line that were
    not measured at all of its lengths are joined where their densities lie near each other and no two
    of them share a task and length: ``rr @ 35 %``, rounded to 5, is then one method at several lengths.

    Args:
        frame: rows with ``setup``, ``series``, ``line``, ``task``, ``length``, ``density``, ``dense``.
    """
    found = frame["series"].astype(str).copy()
    sparse = frame[~frame["dense"] & frame["density"].notna()]
    for (_, line), rows in sparse.groupby(["setup", "line"]):
        places = rows[["task", "length"]].drop_duplicates()
        had = rows.drop_duplicates(["series", "task", "length"])["series"].value_counts()
        few = rows[rows["series"].map(had) < len(places)]
        for group in _neighbours(few.sort_values("density", kind="stable")):
            if group["series"].nunique() > 1 and not group.duplicated(["task", "length"]).any():
                target = 5 * round(group["density"].mean() / 5)
                found[group.index] = f"{line} @ {target} %"
    return found


def density_of(point: str) -> str:
    """The density of :func:`points` that a point is named after, in percent; empty without one."""
    found = re.search(r" @ (\d+) %$", point)
    return found[1] if found else ""


def _neighbours(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows sorted by density, cut where the next one is farther than :data:`NEAR`."""
    cuts = (rows["density"].diff() > NEAR).cumsum()
    yield from (group for _, group in rows.groupby(cuts))


def control_bases(labels: Iterable[str]) -> dict[str, str]:
    """Every control among the labels and the label that it varies.

    Settings that all labels of a method name make no control of any. What follows the settings, such
    as a density, makes a method of its own.
    """
    parts = {label: split_label(label) for label in labels}
    shared: dict[tuple[str, str], set[str]] = {}
    for name, settings, rest in parts.values():
        shared[name, rest] = shared.get((name, rest), set(settings)) & set(settings)
    labelled: dict[tuple[str, frozenset[tuple[str, str]], str], str] = {}
    for label, (name, settings, rest) in parts.items():
        labelled.setdefault((name, frozenset(settings.items()), rest), label)
    bases: dict[str, str] = {}
    for label, (name, settings, rest) in parts.items():
        common = {key: value for key, value in settings.items() if key in shared[name, rest]}
        same = labelled.get((name, frozenset(common.items()), rest))
        if same is not None and common != settings:
            bases[label] = same
    return bases


def keep_bases(labels: Iterable[str]) -> dict[str, str]:
    """Labels that differ in their always-kept blocks alone, and of each group what keeps the most."""
    groups: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for label in labels:
        name, settings, rest = split_label(label)
        told = re.search(r", keep ([^,]+)", rest)
        if told:
            kept = 0 if told[1] == "none" else len(told[1].split("+"))
            same = name, str(settings), rest.replace(told[0], "")
            groups.setdefault(same, []).append((kept, label))
    bases: dict[str, str] = {}
    for group in groups.values():
        base = max(group, key=lambda one: one[0])[1]
        bases |= {label: base for _, label in sorted(group, reverse=True) if label != base}
    return bases


def main_lines(lengths: Mapping[str, Collection[int]]) -> list[list[str]]:
    """The labels that figures by length show, one list per figure.

    Args:
        lengths: labels in the order of the legend, and the lengths that each was measured at.
    """
    labels = list(lengths)
    if len(labels) <= MOST:
        return [labels]
    bases = control_bases(labels) | keep_bases(labels)
    every = {length for found in lengths.values() for length in found}
    often = [label for label in labels if label not in bases and 2 * len(lengths[label]) >= len(every)]
    return parts(often or labels)


def spread(lines: Mapping[str, str]) -> list[str]:
    """Labels; of a line with more than :data:`MOST` settings that many, evenly spread.

    Args:
        lines: labels in the order of the legend, and the line that each is a point of.
    """
    members: dict[str, list[str]] = {}
    for label, line in lines.items():
        members.setdefault(line, []).append(label)
    chosen = {
        own[place * (len(own) - 1) // (MOST - 1)] if len(own) > MOST else own[place]
        for own in members.values()
        for place in range(min(MOST, len(own)))
    }
    return [label for label in lines if label in chosen]


def control_lines(labels: Iterable[str]) -> list[list[str]]:
    """Controls that :func:`main_lines` leaves out, each behind what it varies: one list per figure."""
    every = list(labels)
    bases = control_bases(every) if len(every) > MOST else {}
    figures: list[list[str]] = []
    for base in dict.fromkeys(bases.values()):
        # Of many controls some go on in the next figure, behind the same base.
        for own in parts([label for label in every if bases.get(label) == base], MOST - 1):
            name, _, rest = split_label(base)
            last = figures[-1] if figures else []
            alike = last and split_label(last[0])[::2] == (name, rest)
            if alike and base not in last and len(last) + len(own) < MOST:
                last += [base, *own]
            else:
                figures.append([base, *own])
    return figures


def density_lines(lines: Mapping[str, str]) -> list[list[str]]:
    """The labels that figures against density show, one list per figure.

    Args:
        lines: labels in the order of the legend, and the line that each is a point of.
    """
    names = list(dict.fromkeys(lines.values()))
    bases = control_bases(names) | keep_bases(names) if len(names) > MOST else {}
    return [
        [label for label, line in lines.items() if line in part]
        for part in parts([name for name in names if name not in bases])
    ]


def parts(labels: list[str], most: int = MOST) -> list[list[str]]:
    """Labels in as few lists of at most ``most`` as there must be, of like length."""
    count = -(-len(labels) // most)
    size = -(-len(labels) // max(count, 1))
    return [labels[start : start + size] for start in range(0, len(labels), max(size, 1))]
