"""A prompt as the language layers of a model get it, whatever it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """What prefill gets: all tokens but the last.

    Attributes:
        tokens: how many.
        inputs: keyword arguments of the decoder: ``input_ids``, or embeddings and their positions.
    """

    tokens: int
    inputs: dict[str, Any]
