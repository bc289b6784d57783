"""Long documents cut with one tokenizer for all models, as HELMET does with Llama-2's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rr_bench.tasks.files.jsonl import data_root
from rr_bench.tasks.prompts.tokens import Tokenizer, count_tokens, load_tokenizer
from rr_bench.tasks.settings import DataSettings, Settings

OMITTED = " ... [the rest of the text is omitted]"
FOLDER = "llama2_tokenizer"
LLAMA2 = "NousResearch/Llama-2-7b-hf"
"""Ungated copy of the tokenizer HELMET uses."""


def tokenizer_name(data: DataSettings) -> str:
    """Folder or hub id of the tokenizer that cuts documents.

    Raises:
        ValueError: none is given and HELMET's folder holds none.
    """
    if data.llama2_tokenizer:
        return data.llama2_tokenizer
    helmet_dir = data.path("helmet_dir")
    for root in () if helmet_dir is None else (helmet_dir, data_root(helmet_dir)):
        if (root / FOLDER).is_dir():
            return str(root / FOLDER)
    raise ValueError(
        "stories and legal cases are cut with Llama-2's tokenizer: set `data.llama2_tokenizer` to "
        f"its folder or to {LLAMA2}, or run `python -m rr_bench.download`, which puts it into "
        f"{FOLDER}/ in `data.helmet_dir`"
    )


def tokenizer_files(data: DataSettings) -> list[Path]:
    """What decides a local tokenizer's tokens; one from the hub goes by its name in the settings."""
    folder = Path(tokenizer_name(data)).expanduser()
    return [path for path in (folder / "tokenizer.json", folder / "tokenizer.model") if path.is_file()]


class Cutter:
    """Counts and cuts documents; counts are remembered, as many rows share one document.

    Args:
        settings: names the tokenizer.
    """

    def __init__(self, settings: Settings) -> None:
        name = tokenizer_name(settings.data)
        self._tokenizer: Tokenizer = load_tokenizer(tokenizer=name)
        self._marker = count_tokens(self._tokenizer, OMITTED)
        self._counts: dict[bytes, int] = {}
        self._last: tuple[str, list[tuple[int, int]]] = ("", [])

    def reaches(self, text: str, tokens: int) -> bool:
        """Whether a document has at least so many tokens."""
        if tokens <= 0:
            return True
        if len(text.encode("utf-8")) + 1 < tokens:  # no token is shorter than a byte
            return False
        return self.count(text) >= tokens

    def count(self, text: str) -> int:
        """Tokens with the tokenizer's default special tokens."""
        key = hashlib.sha256(text.encode("utf-8")).digest()
        if key not in self._counts:
            self._counts[key] = len(self._offsets(text))
        return self._counts[key]

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of each token; kept for the last text, which is usually counted and then cut."""
        if self._last[0] != text:
            encoded = self._tokenizer(text, return_offsets_mapping=True, verbose=False)
            self._last = text, encoded["offset_mapping"]
        return self._last[1]

    def cut(self, text: str, limit: int) -> str:
        """The document, or its beginning and a remark that the rest is missing.

        Args:
            text: the document.
            limit: tokens it may have, remark and special tokens included.

        Raises:
            ValueError: the limit is smaller than the remark.
        """
        if self.count(text) <= limit:
            return text
        if limit <= self._marker:
            raise ValueError(f"a document of {limit} tokens is all remark; raise `lengths`")
        offsets = self._offsets(text)
        return text[: offsets[limit - self._marker][1]] + OMITTED


def no_rows(name: str, floor: int, count: int) -> str:
    """The message when a floor leaves nothing."""
    return (
        f"{name}: all {count} documents are under the floor of {floor} Llama-2 tokens; "
        "data.document_floor=0 keeps them"
    )
