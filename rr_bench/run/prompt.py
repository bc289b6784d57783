"""A prompt as the language layers of a model get it, whatever it is about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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


def prompt_sha(doc: Mapping[str, Any]) -> str:
    """SHA-256 of a row's prompt, and of the video that a user brought for it."""
    video = json.loads(doc["video"]).get("content", "") if "video" in doc else ""
    return hashlib.sha256((doc["prompt"] + video).encode()).hexdigest()
