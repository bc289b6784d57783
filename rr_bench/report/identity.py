"""What a row of the tables is told apart by: whatever tells its key apart.

A cell's settings are flattened; those with a column of their own aside, every setting in which two
cells of the same model name, method label, task and length differ becomes a column. So no row can
vanish behind another one, or be merged with it, whichever setting it was that changed.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rr_bench.store.stored import StoredCell

METHOD_SIDE = ("method", "keep", "backend", "dense_below")
"""Settings that a sparse cell and its dense cell need not share."""

ALWAYS = ("keep", "dtype", "device", "seed", "source")
"""Settings that ``summary.csv`` shows whether they vary or not."""

SHARED = ("dtype", "device", "seed")
"""Settings that all cells of a figure share."""

ABSENT = "default"
"""Shown for a setting that a cell's key leaves out: it had its default."""

_OWN = ("task", "length", "versions")
_NAMES = {"data.source": "source", "data.files": "files", "data.chat": "chat"}
"""Short names of columns; of other settings the dotted name is the column's."""


def flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Leaves of nested mappings by their path."""
    if not isinstance(value, Mapping):
        return {path: value}
    leaves: dict[tuple[str, ...], Any] = {}
    for name, item in value.items():
        leaves |= flat(item, (*path, str(name)))
    return leaves


def keep_text(keep: Mapping[str, bool] | None) -> str:
    """Always-kept blocks in short: those that are on, of the dense baseline "–"."""
    if keep is None:
        return "–"
    return "+".join(name for name, on in keep.items() if on) or "none"


def settings_of(cell: StoredCell) -> dict[str, Any]:
    """A cell's settings by column name, those with a column of their own left out.

    Groups of files are one value; the method's settings count beside its label, since two files of
    one name give one label.
    """
    found: dict[str, Any] = {}
    for name, value in cell.info.settings.items():
        if name in _OWN:
            continue
        if name == "keep":
            found[name] = keep_text(value)
        elif name == "data":
            found |= {_NAMES.get(f"data.{key}", f"data.{key}"): item for key, item in value.items()}
        else:
            found[name] = value
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping | list) else value


class Identity:
    """How the rows of one store are told apart.

    Args:
        cells: the cells behind the rows.
    """

    def __init__(self, cells: Sequence[StoredCell]) -> None:
        self._settings = {cell.info.key: settings_of(cell) for cell in cells}
        telling = self._telling(cells)
        self.varying = [name for name in telling if name not in ALWAYS]
        self._models = self._model_names(cells)
        self._run_side = [
            *(name for name in SHARED if self._several(name)),
            *(name for name in telling if name not in (*METHOD_SIDE, *SHARED, "model")),
        ]
        sides: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
        for cell in cells:
            sides[cell.info.method["label"]].add(self._side(cell, METHOD_SIDE))
        self._ambiguous = {label for label, found in sides.items() if len(found) > 1}

    def _telling(self, cells: Sequence[StoredCell]) -> list[str]:
        """Settings in which cells differ that would be one row without them."""
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for cell in cells:
            info = cell.info
            place = info.model["name"], info.method["label"], info.task, info.length
            groups[place].append(self._settings[info.key])
        names: dict[str, None] = {}
        for group in groups.values():
            for name in dict.fromkeys(name for settings in group for name in settings):
                if len({settings.get(name, ABSENT) for settings in group}) > 1:
                    names[name] = None
        return list(names)

    @staticmethod
    def _model_names(cells: Sequence[StoredCell]) -> dict[str, str]:
        """Names in tables by fingerprint; two models of one name get the start of theirs."""
        named = {str(cell.info.settings["model"]): cell.info.model["name"] for cell in cells}
        names = list(named.values())
        return {
            fingerprint: f"{name}#{fingerprint[:6]}" if names.count(name) > 1 else name
            for fingerprint, name in named.items()
        }

    def _several(self, name: str) -> bool:
        return len({settings.get(name, ABSENT) for settings in self._settings.values()}) > 1

    def _side(self, cell: StoredCell, names: Sequence[str]) -> tuple[Any, ...]:
        settings = self._settings[cell.info.key]
        return tuple(settings.get(name, ABSENT) for name in names)

    def columns(self, cell: StoredCell) -> dict[str, Any]:
        """The model's name, :data:`ALWAYS` and what varies, the row's ``series`` and ``setup``."""
        names = [*ALWAYS, *(name for name in self.varying if name != "model")]
        values = zip(names, self._side(cell, names), strict=True)
        model = self._models[str(cell.info.settings["model"])]
        run_side = [str(_short(value)) for value in self._side(cell, self._run_side)]
        return {
            "model": model,
            **{name: _short(value) for name, value in values},
            "series": self.series(cell),
            "setup": " ".join([model, *run_side]),
        }

    def series(self, cell: StoredCell) -> str:
        """A method's label, with the settings beside it where one label was run under several."""
        label = str(cell.info.method["label"])
        if label not in self._ambiguous:
            return label
        names = [name for name in ("keep", *self.varying) if name in METHOD_SIDE]
        values = zip(names, self._side(cell, names), strict=True)
        return ", ".join([label, *(f"{name} {_short(value)}" for name, value in values)])


def _short(value: Any) -> Any:
    """A value fit for a table: a long one by the start of its hash."""
    text = str(value)
    return hashlib.sha256(text.encode()).hexdigest()[:8] if len(text) > 60 else value


def superseded(cells: Iterable[StoredCell]) -> dict[str, StoredCell]:
    """Keys of cells whose settings were measured again by later versions, and what replaced them.

    Versions only go up, so they say what is later; a clock that was set back does not.
    """
    latest: dict[str, StoredCell] = {}
    groups: dict[str, list[StoredCell]] = defaultdict(list)
    for cell in cells:
        settings = {name: item for name, item in cell.info.settings.items() if name != "versions"}
        groups[json.dumps(settings, sort_keys=True)].append(cell)
    for group in groups.values():
        group.sort(key=lambda cell: (versions_of(cell), cell.info.key))
        latest |= {cell.info.key: group[-1] for cell in group[:-1]}
    return latest


def versions_of(cell: StoredCell) -> float:
    """Sum of a cell's versions: of two that differ in nothing else, the later has the larger one."""
    return float(sum(float(number) for number in cell.info.settings["versions"].values()))
