"""What fields of stored records may hold: their annotated types, and ranges.

A store of 10,000 cells has millions of fields, so the annotations are turned into checks once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Check = Callable[[Any], bool]
Range = tuple[float, float]

DEEPEST = 32
"""Levels of nesting in stored JSON; nothing that is written here has more than six."""

_NUMBERS: frozenset[type] = frozenset({int, float})
_KINDS: dict[Any, frozenset[type]] = {
    float: _NUMBERS,
    **{kind: frozenset({kind}) for kind in (int, str, bool, type(None))},
}
_ROUNDING = 1e-6
"""A mean of shares may be above 1 by that."""

COUNT: Range = (0, 2**53)
SHARE: Range = (0, 1 + _ROUNDING)
SECONDS: Range = (0, 1e9)


def wrong_field(record: Any) -> str | None:
    """What is wrong with the types of a dataclass's fields, None if nothing is."""
    cls: Any = type(record)
    for name, check in _checks(cls):
        value = getattr(record, name)
        if not check(value):
            kind = next(field.type for field in fields(cls) if field.name == name)
            return f"field {name} must be {kind}, got {shown(value)}"
    return None


def columns_fit(cls: Any, columns: Mapping[str, Sequence[Any]]) -> bool:
    """Whether all values of some of a dataclass's fields plainly have the types of the fields.

    They come from a parser that refuses NaN, infinity and lone surrogates.
    """
    checks = _column_checks(cls)
    return all(checks[name](column) for name, column in columns.items())


def column_in_range(column: Sequence[Any], bounds: Range) -> bool:
    """Whether the numbers of a column, or of its lists, lie in a range."""
    found = [value for value in column if value is not None]
    if found and type(found[0]) is list:
        return all(in_range(value, bounds) for value in found)
    return in_range(found, bounds)


@cache
def field_names(cls: Any) -> dict[str, None]:
    """Names of a dataclass's fields, in their order."""
    return dict.fromkeys(field.name for field in fields(cls))


@cache
def needed_fields(cls: Any) -> set[str]:
    """Fields without a default: one that was added later has one, and older records do without it."""
    return field_names(cls).keys() - field_defaults(cls).keys()


@cache
def field_defaults(cls: Any) -> dict[str, Any]:
    """Values of the fields that have a default."""
    made = {
        field.name: field.default_factory()
        for field in fields(cls)
        if field.default_factory is not MISSING
    }
    return made | {field.name: field.default for field in fields(cls) if field.default is not MISSING}


@cache
def _checks(cls: Any) -> list[tuple[str, Check]]:
    hints = get_type_hints(cls)
    return [(name, check_of(hints[name])) for name in field_names(cls)]


@cache
def _column_checks(cls: Any) -> dict[str, Callable[[Sequence[Any]], bool]]:
    hints = get_type_hints(cls)
    return {name: _column_check(hints[name]) for name in field_names(cls)}


def _column_check(hint: Any) -> Callable[[Sequence[Any]], bool]:
    parts = get_args(hint) if _is_union(hint) else (hint,)
    plain = frozenset().union(*(_KINDS.get(part, ()) for part in parts))
    others = [check_of(part) for part in parts if part not in _KINDS]
    check = others[0] if len(others) == 1 else check_of(hint)

    def fits(column: Sequence[Any]) -> bool:
        if plain.issuperset(map(type, column)):
            return True
        return all(map(check, [value for value in column if type(value) not in plain]))

    return fits


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def check_of(hint: Any) -> Check:
    """A check whether a JSON value has the annotated type; bool is no number, NaN no float."""
    if hint is Any:
        return _shallow
    origin, args = get_origin(hint), get_args(hint)
    if _is_union(hint):
        checks = [check_of(arg) for arg in args]
        return lambda value: any(check(value) for check in checks)
    if origin is list:
        if args[0] is float:
            return _numbers
        inner = check_of(args[0])
        return lambda value: type(value) is list and all(map(inner, value))
    if origin is dict:
        inner = check_of(args[1])
        return lambda value: (
            type(value) is dict and all(map(_text, value)) and all(map(inner, value.values()))
        )
    simple: dict[Any, Check] = {float: _finite, str: _text, type(None): lambda value: value is None}
    return simple.get(hint) or (lambda value: type(value) is hint)


def in_range(value: Any, bounds: Range) -> bool:
    """Whether a number, or each of a list, lies in a range; None does."""
    low, high = bounds
    if type(value) is list:
        return not value or (low <= min(value) and max(value) <= high)
    return value is None or low <= value <= high


def wrong_type(value: Mapping[str, Any], wanted: Mapping[str, type], name: str) -> str | None:
    """What is wrong with the members of a mapping, None if nothing is."""
    for key, kind in wanted.items():
        if type(value.get(key)) is not kind:
            return f"field {name}.{key} must be a {kind.__name__}, got {shown(value.get(key))}"
    return None


def shown(value: Any) -> str:
    """A value in an error message."""
    text = ascii(value) if _shallow(value) else "something deeply nested"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _finite(value: Any) -> bool:
    return type(value) in _NUMBERS and -math.inf < value < math.inf


def _numbers(value: Any) -> bool:
    if type(value) is not list:
        return False
    return not value or (_NUMBERS.issuperset(map(type, value)) and math.isfinite(sum(value)))


def _text(value: Any) -> bool:
    """Text that can be written: a lone surrogate cannot."""
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shallow(value: Any, level: int = 0) -> bool:
    """Whether a JSON value can be written, and is nested less than :data:`DEEPEST` deep."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is float:
        return _finite(value)
    if kind is list:
        return level < DEEPEST and all(_shallow(item, level + 1) for item in value)
    if kind is dict:
        return level < DEEPEST and all(
            _text(name) and _shallow(item, level + 1) for name, item in value.items()
        )
    return True
