"""Tokenizers as the builders see them: found once per process, asked for counts and offsets."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What the builders need of a tokenizer: ids and, to truncate, character offsets."""

    def __call__(self, text: str, **kwargs: Any) -> Mapping[str, Any]:
        """Encode with the tokenizer's default special tokens."""
        ...


def load_tokenizer(**metadata: Any) -> Tokenizer:
    """The tokenizer named by ``metadata["tokenizer"]``, else by ``metadata["pretrained"]``.

    A directory is read without the network; a hub id (``name`` or ``owner/name``) goes through
    the hub's cache. Remote code is run only if ``metadata["trust_remote_code"]`` says so.

    Raises:
        ValueError: no name, neither a directory nor a hub id, or nothing usable behind it.
    """
    name = next((metadata[k] for k in ("tokenizer", "pretrained") if metadata.get(k)), None)
    if not isinstance(name, str | Path):
        raise ValueError(
            "the tasks count tokens: give the model's directory as `tokenizer` or "
            "`pretrained` (lm-eval: --model_args pretrained=<dir> or --metadata)"
        )
    return _load_tokenizer(str(name), bool(metadata.get("trust_remote_code", False)))


@functools.lru_cache(maxsize=4)
def _load_tokenizer(name: str, remote_code: bool = False) -> Tokenizer:
    """Load once per process: every task and length of a run asks for the same one."""
    from transformers import AutoTokenizer

    local = Path(name).expanduser()
    if not local.is_dir() and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"`tokenizer`={name} is not a directory; check `model.path`")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(local) if local.is_dir() else name,
            local_files_only=local.is_dir(),
            trust_remote_code=remote_code,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        code = "trust_remote_code" in str(error)
        remedy = (
            "its own code, model.trust_remote_code=true, is needed" if code else "check `model.path`"
        )
        raise ValueError(f"`tokenizer`={name} has no tokenizer ({reason}); {remedy}") from error
    if not count_tokens(tokenizer, "The quick brown fox."):
        raise ValueError(f"`tokenizer`={name} encodes text to nothing; its vocabulary is missing")
    return tokenizer


def count_tokens(tokenizer: Tokenizer, text: str, *, special: bool = True) -> int:
    """Number of tokens; ``special`` adds the tokenizer's default special tokens."""
    if special:
        return len(tokenizer(text, verbose=False)["input_ids"])
    return len(tokenizer(text, verbose=False, add_special_tokens=False)["input_ids"])
