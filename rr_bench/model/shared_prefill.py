"""Which log-likelihood requests can share one forward pass.

A request is (context, continuation). If a document's texts are prefixes of its longest text, and the
tokens of that text split exactly where each continuation begins and ends, one pass over the longest
text holds every request's logits. Otherwise each request gets its own pass, split into tokens as
lm-eval does it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase


class Encoder(Protocol):
    """The two ways of tokenising needed here; :class:`rr_bench.model.lm.SparseHFLM` has them."""

    prefix_token_id: int | None

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of a text, with the tokenizer's own special tokens unless told otherwise."""

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]] | None:
        """Token ids and each token's ``[start, end)`` in the text, ``(-1, -1)`` for special tokens."""

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """lm-eval's own split of one request."""


@dataclass(frozen=True)
class Passage:
    """One forward pass.

    Attributes:
        ids: tokens of the whole text; the model reads all but the last.
        answers: (index of the request, first token, end token) of each continuation.
    """

    ids: list[int]
    answers: list[tuple[int, int, int]]


def plan_passages(pairs: Sequence[tuple[str, str]], encoder: Encoder) -> list[Passage]:
    """Group one document's requests into as few passes as give lm-eval's own answers.

    Args:
        pairs: (context, continuation) of each request.
        encoder: the model's tokenisation.
    """
    if len(pairs) > 1:
        shared = _shared(pairs, encoder)
        if shared is not None:
            return [shared]
    return [_single(index, pair, encoder) for index, pair in enumerate(pairs)]


def _single(index: int, pair: tuple[str, str], encoder: Encoder) -> Passage:
    context, continuation = pair
    if context:
        before, after = encoder._encode_pair(context, continuation)
    elif encoder.prefix_token_id is None:
        raise ValueError(
            "a continuation without context needs a token to follow, and the tokenizer has neither BOS "
            "nor EOS: give bos_token or eos_token in its tokenizer_config.json"
        )
    else:
        before, after = [encoder.prefix_token_id], encoder.tok_encode(continuation, False)
    return Passage(before + after, [(index, len(before), len(before) + len(after))])


def _shared(pairs: Sequence[tuple[str, str]], encoder: Encoder) -> Passage | None:
    """The one pass that answers all requests, or ``None`` if the texts or tokens do not allow it."""
    longest = max((context + continuation for context, continuation in pairs), key=len)
    if not all(context and longest.startswith(context + end) for context, end in pairs):
        return None
    encoded = encoder.encode_with_spans(longest)
    if encoded is None:
        return None
    ids, spans = encoded
    text = [i for i, (start, _) in enumerate(spans) if start >= 0]
    starts, ends = [spans[i][0] for i in text], [spans[i][1] for i in text]
    answers = []
    for index, (context, continuation) in enumerate(pairs):
        # Like lm-eval: spaces at the end of a context count as part of the continuation.
        first, last = len(context.rstrip()), len(context) + len(continuation)
        low, high = bisect_right(ends, first), bisect_left(starts, last)
        if low >= high or starts[low] < first or ends[high - 1] > last:
            return None
        answers.append((index, text[low], text[high - 1] + 1))
    return Passage(ids[: max(end for *_, end in answers)], answers)


def encode_with_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool
) -> tuple[list[int], list[tuple[int, int]]] | None:
    """See :meth:`Encoder.encode_with_spans`; ``None`` if the tokenizer cannot tell."""
    if not tokenizer.is_fast:
        return None
    encoded = tokenizer(
        text,
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    spans = [
        (-1, -1) if special else (int(span[0]), int(span[1]))
        for span, special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
    ]
    return encoded["input_ids"], spans
