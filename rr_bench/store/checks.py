"""What fields of stored records may hold: their annotated types, and ranges.

A store of 10,000 cells has millions of fields, so the annotations are turned into checks once.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from sys import intern
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Check = Callable[[Any], bool]
Range = tuple[float, float]

DEEPEST = 32
"""Levels of nesting in stored JSON; nothing that is written here has more than six."""

_NUMBERS = frozenset({int, float})
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


@cache
def field_names(cls: Any) -> dict[str, None]:
    """Names of a dataclass's fields, in their order."""
    return dict.fromkeys(field.name for field in fields(cls))


@cache
def needed_fields(cls: Any) -> set[str]:
    """Fields without a default: one that was added later has one, and older records do without it."""
    return {
        field.name
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    }


@cache
def _checks(cls: Any) -> list[tuple[str, Check]]:
    hints = get_type_hints(cls)
    return [(name, check_of(hints[name])) for name in field_names(cls)]


def check_of(hint: Any) -> Check:
    """A check whether a JSON value has the annotated type; bool is no number, NaN no float."""
    if hint is Any:
        return _shallow
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
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


def packed(record: Any) -> Any:
    """A sample made small: densities of layers as an array, one copy of texts that samples share."""
    for name in ("uid", "task", "prompt_sha"):
        object.__setattr__(record, name, intern(getattr(record, name)))
    object.__setattr__(record, "kernels", _shared(tuple(record.kernels)))
    if record.density_by_layer is not None:
        object.__setattr__(record, "density_by_layer", array("d", record.density_by_layer))
    return record


@cache
def _shared(names: tuple[str, ...]) -> list[str]:
    return list(names)
