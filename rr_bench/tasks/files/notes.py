"""What happened to a dataset on the way to its rows: counted and named, to be stored beside scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

NAMED = 20
"""So many offenders are named; all are counted."""


class Notes:
    """Counts of one dataset at one length; :meth:`as_dict` is what gets stored."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._unknown: Counter[str] = Counter()
        self._dropped: dict[str, list[str]] = {}
        self._flagged: dict[str, list[str]] = {}
        self._gold_lost: list[str] = []
        self._truncated = 0
        self._facts: dict[str, Any] = {}

    def read(self, name: str, rows: int) -> None:
        """A file and how many rows it held."""
        self._files[name] = rows

    def fields(self, row: Mapping[str, Any], known: Iterable[str]) -> None:
        """Count the fields of a row that its layout does not have."""
        self._unknown.update(row.keys() - set(known))

    def drop(self, reason: str, which: object) -> None:
        """A row that is left out, and why."""
        self._dropped.setdefault(reason, []).append(str(which))

    def flag(self, remark: str, which: object) -> None:
        """A row that is used all the same, and what is odd about it."""
        self._flagged.setdefault(remark, []).append(str(which))

    def row(self, uid: str, *, truncated: bool, gold_survived: bool | None) -> None:
        """A finished row."""
        self._truncated += truncated
        if gold_survived is False:
            self._gold_lost.append(uid)

    def fact(self, name: str, value: Any) -> None:
        """One more thing worth knowing: a setting as it was resolved."""
        self._facts[name] = value

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            **self._facts,
            "rows_in_files": dict(self._files),
            "unknown_fields": dict(sorted(self._unknown.items())),
            "dropped": _counted(self._dropped),
            "flagged": _counted(self._flagged),
            "truncated": self._truncated,
            "gold_lost": {"count": len(self._gold_lost), "uids": list(self._gold_lost)},
        }


def _counted(found: Mapping[str, list[str]]) -> dict[str, Any]:
    return {why: {"count": len(rows), "first": rows[:NAMED]} for why, rows in found.items()}
