"""Rows that know where they stand, and checked access to their fields.

A field that is missing or of another kind is named with its file and row, before it becomes an error
deep inside a metric. A list of answers may be given as one string, which is then one answer: HELMET
does so for RAG; for RULER it would take such a string letter by letter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


class Record(dict[str, Any]):
    """One row of a data file.

    Attributes:
        where: the file and the row, as an error message names them.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        super().__init__(values)
        self.where = where


def text_of(row: Record, name: str) -> str:
    """A field that is text.

    Raises:
        ValueError: it is missing or something else; file and row are named.
    """
    return _text(row.get(name), f"{row.where}: {name}")


def texts_of(row: Record, name: str) -> list[str]:
    """A field that is a list of texts, or one text; at least one.

    Raises:
        ValueError: it is empty, missing or something else; file and row are named.
    """
    return texts(row.get(name), f"{row.where}: {name}")


def texts(value: Any, where: str) -> list[str]:
    """As :func:`texts_of`, of a value inside a field."""
    if isinstance(value, str):
        return [value]
    found = [_text(one, f"{where}[{i}]") for i, one in enumerate(_list(value, where))]
    if not found:
        raise ValueError(f"{where} is empty: at least one text is needed")
    return found


def parts_of_list(row: Record, name: str) -> list[Any]:
    """A field that is a list, of whatever.

    Raises:
        ValueError: it is missing or something else; file and row are named.
    """
    return _list(row.get(name), f"{row.where}: {name}")


def passages_of(row: Record, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """A field that is a list of passages, each with texts under ``fields``; it may be empty.

    Raises:
        ValueError: it is missing or something else, or a passage lacks a text; file and row are named.
    """
    where = f"{row.where}: {name}"
    found = _list(row.get(name), where)
    for i, one in enumerate(found):
        if not isinstance(one, Mapping):
            raise ValueError(f"{where}[{i}] must be a passage with {list(fields)}, got {_kind(one)}")
        for field in fields:
            _text(one.get(field), f"{where}[{i}].{field}")
    return found


def inner_text(row: Record, *names: str) -> str:
    """A text inside nested mappings, such as ``question.text``.

    Raises:
        ValueError: it is missing or something else; file and row are named.
    """
    value: Any = row
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return _text(value, f"{row.where}: {'.'.join(names)}")


def positive_of(row: Record, name: str) -> float:
    """A field that is a number above 0.

    Raises:
        ValueError: it is missing or something else; file and row are named.
    """
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ValueError(f"{row.where}: {name}={value!r} must be a number above 0")


def check_unicode(row: Any, where: str) -> None:
    """Refuse half of a character (a lone surrogate), which JSON can escape but no tokenizer can read.

    Raises:
        ValueError: there is one; file and row are named.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.start + 1]
        raise ValueError(
            f"{where}: a lone surrogate (\\u{ord(half):04x}) in the text; repair the file"
        ) from error


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be text, got {_kind(value)}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null or nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) < 40 else shown[:37] + '...'}"
