"""Checksums inside of what is stored: a file or line that was edited or damaged is noticed.

A JSON file carries the checksum of its own content as its last member ``check``; a line of
``samples.jsonl`` that of its own text, which costs no second encoding. Files of before this have none,
and lines the checksum of their content; both are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

CHECK = "check"
_DIGITS = 16
_CHECKSUM = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")
_TEXT_DIGITS = 20
_END = ', "check": "'
_TAIL = len(_END) + _TEXT_DIGITS + len('"}')


def checksum(data: Mapping[str, Any]) -> str:
    """Of the content, whatever the order and spaces."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True)
    return _sha256(text)[:_DIGITS]


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The content and its checksum."""
    content = {name: value for name, value in data.items() if name != CHECK}
    return content | {CHECK: checksum(content)}


def unsealed(data: dict[str, Any]) -> dict[str, Any] | None:
    """The content without its checksum, None if the two do not fit; as it is if it has none.

    A checksum that lost its name in a damage is no member of anything else.
    """
    if CHECK not in data:
        last = next(reversed(data.values()), None)
        return None if isinstance(last, str) and _CHECKSUM.fullmatch(last) else data
    content = {name: value for name, value in data.items() if name != CHECK}
    return content if data[CHECK] == checksum(content) else None


def sealed_line(text: str) -> str:
    """One line of JSON, an object of at least one member, with the checksum of its text at its end."""
    start = text[:-1]
    return f'{start}{_END}{_sha256(start)[:_TEXT_DIGITS]}"}}'


def sealed_text(line: str) -> str | None:
    """The line without the checksum of its text, None if it does not end in one that fits."""
    return line[:-_TAIL] + "}" if is_sealed(line.encode("utf-8", "surrogatepass")) else None


def is_sealed(line: bytes) -> bool:
    """Whether a line ends in the checksum of its text."""
    found = hashlib.sha256(line[:-_TAIL]).hexdigest()[:_TEXT_DIGITS]
    return line[-_TAIL:] == f'{_END}{found}"}}'.encode()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
