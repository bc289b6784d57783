r"""HELMET's Recall templates, character for character.

Each dataset has a user part U and a lead-in S. Recall is run without a chat template, so the
prompt is ``U + "\n" + S`` with no space after S (HELMET commit 4526dfb, ``data.py``).
"""

from __future__ import annotations

JSON_KV_USER = (
    "{context}\n\nExtract the value corresponding to the specified key in the JSON object below."
    "\n\n{demos}Key: {question}"
)
JSON_KV_LEAD = "Corresponding value:"
JSON_KV_DEMO = "Key: {key}\nCorresponding value: {value}"

NIAH_ONE_USER = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n"
    "What is the special magic {kind} for {query} mentioned in the provided text?"
)
NIAH_ONE_LEAD = "The special magic {kind} for {query} mentioned in the provided text is"

NIAH_MANY_USER = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n"
    "What are all the special magic {kind} for {query} mentioned in the provided text?"
)
NIAH_MANY_LEAD = "The special magic {kind} for {query} mentioned in the provided text are"

NEEDLE = "One of the special magic {plural} for {key} is: {value}."
"""RULER's needle sentence; ``plural`` is ``numbers`` or ``uuids`` even for a single value."""

JOIN = "\n"
"""Between U and S for every Recall dataset."""


def json_object(pairs: list[tuple[str, str]]) -> str:
    """The haystack of ``json_kv``: ``JSON data:`` and a four-space-indented object."""
    lines = ",\n".join(f'    "{key}": "{value}"' for key, value in pairs)
    return f"JSON data:\n{{\n{lines}\n}}"


def json_kv_demos(demos: list[tuple[str, str]]) -> str:
    """Answered questions and a blank line after each; a row without any has the blank line as well."""
    return "\n\n".join(JSON_KV_DEMO.format(key=k, value=v) for k, v in demos) + "\n\n"
