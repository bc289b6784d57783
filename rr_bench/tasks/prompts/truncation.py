"""Cutting the end of a context until its prompt fits (HELMET ``data.py``).

HELMET tokenizes three times: the prompt, the context alone, the cut prompt. Tokens depend on nearby
characters only, so here the whole is tokenized once, and for the other two a window around each seam.
Where the window does not fall into step with the whole, or repeats one pattern, which falls into step
by chance, everything is tokenized as HELMET does.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rr_bench.tasks.prompts.tokens import Tokenizer, count_tokens

STRICT_ROUNDS = 3
"""How often the strict truncation may cut; upstream cuts once and does not look again."""

WINDOW = 4096
"""Characters tokenized on each side of a seam."""
STEPS = 64
"""So many tokens in a row must lie at the same characters before two tokenizations count as one."""

ENDS = 1024
"""Characters at either end of a window that are looked at for a repeated pattern."""
REPEATED = 8
"""A text that zlib makes so many times smaller is one pattern repeated; prose gets half its size."""

Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Truncated:
    """A prompt after truncation.

    Attributes:
        prompt: finished text.
        context: what is left of the context in it.
        input_len: tokens of ``prompt``.
        removed: context tokens cut from its end.
    """

    prompt: str
    context: str
    input_len: int
    removed: int


def truncate(
    tokenizer: Tokenizer,
    render: Callable[[str], str],
    context: str,
    budget: int,
    *,
    strict: bool = False,
    special: bool = True,
) -> Truncated:
    """Cut the end of the context until the prompt fits.

    With an excess of e tokens, exactly the last e tokens of the context, encoded alone, are cut;
    instruction and question stay. Upstream does that once, so the seam may leave a token or two
    too many; ``strict`` repeats it, at most three times.

    Args:
        tokenizer: of the evaluated model.
        render: context to prompt.
        context: the cuttable field.
        budget: tokens allowed for the prompt.
        strict: repeat until it fits.
        special: whether special tokens are added to the prompt; a chat template brings its own.

    Raises:
        ValueError: the excess is longer than the context, or strict truncation does not converge.
    """
    prompt = render(context)
    whole = encode(tokenizer, prompt, special) if has_offsets(tokenizer) else []
    tokens = len(whole) or count_tokens(tokenizer, prompt, special=special)
    removed = 0
    for _ in range(STRICT_ROUNDS if strict else 1):
        excess = tokens - budget
        if excess <= 0:
            break
        context, prompt, counted = _cut(tokenizer, render, context, excess, (prompt, whole), special)
        removed += excess
        if counted is None or strict:
            whole = encode(tokenizer, prompt, special)
        tokens = len(whole) if counted is None else counted
    if strict and tokens > budget:
        raise ValueError(
            f"after {STRICT_ROUNDS} cuts the prompt still has {tokens} of {budget} tokens; "
            "raise `lengths` or set strict_truncation to false"
        )
    return Truncated(prompt, context, tokens, removed)


def _cut(
    tokenizer: Tokenizer,
    render: Callable[[str], str],
    context: str,
    excess: int,
    before: tuple[str, Offsets],
    special: bool,
) -> tuple[str, str, int | None]:
    """Cut context, its prompt, and the prompt's tokens if they are known without tokenizing all of it.

    ``before`` is the prompt with the whole context, and its tokens.
    """
    prompt, whole = before
    # Of some tokenizers the last token is a special one, and some lose characters they do not know.
    known = bool(whole) and whole[-1][1] == len(prompt)
    at = prompt.find(context) if known else -1
    kept = tail_start(tokenizer, context, excess, whole, at)
    if kept is None:
        context = drop_tail(tokenizer, context, excess)
        return context, render(context), None
    context = context[:kept]
    shorter, seam = render(context), at + kept
    if not shorter.startswith(prompt[:seam]):
        return context, shorter, None
    return context, shorter, count_from(tokenizer, shorter, special, whole, seam)


def has_offsets(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer can say where its tokens stand in the text."""
    return bool(getattr(tokenizer, "is_fast", True))


def encode(tokenizer: Tokenizer, text: str, special: bool = True) -> Offsets:
    """Characters of each token; special tokens of the tokenizer's own are at ``(0, 0)``.

    Raises:
        ValueError: the tokenizer gives no offsets.
    """
    if not has_offsets(tokenizer):
        raise ValueError("truncation needs character offsets: `tokenizer` must be a fast tokenizer")
    found: Offsets = tokenizer(
        text, return_offsets_mapping=True, add_special_tokens=special, verbose=False
    )["offset_mapping"]
    return found


def drop_tail(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """``text`` without its last ``tokens`` tokens.

    Raises:
        ValueError: the text is shorter than that, or the tokenizer gives no offsets.
    """
    offsets = encode(tokenizer, text)
    if tokens > len(offsets):
        raise ValueError(
            f"the prompt is {tokens} tokens over its budget, but its context has only {len(offsets)}; "
            "raise `lengths`"
        )
    return text[: offsets[-tokens][0]]


def tail_start(tokenizer: Tokenizer, context: str, tokens: int, whole: Offsets, at: int) -> int | None:
    """First character of the context's last ``tokens`` tokens, None if only all of it can tell.

    Args:
        tokenizer: of the evaluated model.
        context: the text, as if encoded alone.
        tokens: how many, at least 1.
        whole: tokens of a prompt that holds the context.
        at: where the prompt holds it; negative: it does not.
    """
    start = len(context) - WINDOW
    if at < 0 or start < WINDOW or repeats(context[start:]):
        return None
    part = encode(tokenizer, context[start:])
    if part[-1][1] != WINDOW:  # the tokenizer ends every text with a special token
        return None
    met = in_step(whole, part, at + start)
    if met is None:
        return None
    there, here = met
    missing = tokens - (len(part) - here)
    if missing <= 0:
        return start + part[-tokens][0]
    if missing > there or whole[there - missing][0] < at + WINDOW:
        return None
    return whole[there - missing][0] - at


def count_from(
    tokenizer: Tokenizer, prompt: str, special: bool, whole: Offsets, seam: int
) -> int | None:
    """Tokens of a prompt that begins like another one, None if only all of it can tell.

    Args:
        tokenizer: of the evaluated model.
        prompt: the text.
        special: as in :func:`truncate`.
        whole: tokens of the other prompt.
        seam: first character that may differ.
    """
    start = seam - WINDOW
    if start < 0 or repeats(prompt[start:seam]):
        return None
    part = encode(tokenizer, prompt[start:], special)
    met = in_step(whole, part, start)
    if met is None or whole[met[0] + STEPS - 1][1] >= seam:
        return None
    there, here = met
    return there + len(part) - here


def repeats(window: str) -> bool:
    """Whether a window begins or ends with one pattern over and over."""
    ends = (end.encode("utf-8", "replace") for end in (window[:ENDS], window[-ENDS:]))
    return any(REPEATED * len(zlib.compress(end)) < len(end) for end in ends)


def in_step(whole: Offsets, part: Offsets, shift: int) -> tuple[int, int] | None:
    """Where the tokens of a part fall into step with those of the whole, as places in both.

    Args:
        whole: tokens of a text.
        part: tokens of a piece of it, encoded alone.
        shift: first character of the piece.
    """
    for here in range(1, len(part) - STEPS):
        steps = [(start + shift, end + shift) for start, end in part[here : here + STEPS]]
        there = bisect_left(whole, steps[0], lo=1, hi=len(whole) - 1)
        if list(whole[there : there + STEPS]) == steps:
            return there, here
    return None
