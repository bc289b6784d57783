"""Entailment by a local sequence-to-sequence model, batched and cached.

ALCE's judge is ``google/t5_xxl_true_nli_mixture``; any checkpoint that answers
``premise: ... hypothesis: ...`` with ``1`` or ``0`` will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rr_bench.judge.cache import ReplyCache

NEW_TOKENS = 10
Pair = tuple[str, str]
"""A premise and a claim."""


def question(premise: str, claim: str) -> str:
    """The text the model sees."""
    return f"premise: {premise} hypothesis: {claim}"


class Entailment:
    """Answers whether premises entail claims.

    Args:
        path: checkpoint folder or hub id; loaded when the first unknown pair is asked.
        cache: earlier replies.
        batch_size: pairs per forward pass.
        device: torch device; None: a GPU if there is one.
    """

    def __init__(
        self, path: str, cache: ReplyCache, *, batch_size: int = 8, device: str | None = None
    ) -> None:
        self._path = path
        self._cache = cache
        self._batch_size = batch_size
        self._device = device
        self._loaded: tuple[Any, Any] | None = None

    def answer(self, pairs: Iterable[Pair]) -> None:
        """Ask everything that is not cached yet, long pairs first."""
        unknown = [one for one in dict.fromkeys(question(*pair) for pair in pairs)]
        unknown = sorted((q for q in unknown if self._cache.get(q) is None), key=len, reverse=True)
        batches = range(0, len(unknown), self._batch_size)
        for start in tqdm(batches, desc="entailment", disable=len(batches) < 2):
            batch = unknown[start : start + self._batch_size]
            for text, reply in zip(batch, self._generate(batch), strict=True):
                self._cache.put(text, reply)

    def entails(self, premise: str, claim: str) -> bool:
        """Whether the premise entails the claim: the model's whole reply is ``1``."""
        reply = self._cache.get(question(premise, claim))
        if reply is None:
            self.answer([(premise, claim)])
            reply = self._cache.get(question(premise, claim))
        return reply == "1"

    def _generate(self, texts: list[str]) -> list[str]:
        import torch

        tokenizer, model = self._load()
        inputs = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
        return list(tokenizer.batch_decode(output, skip_special_tokens=True))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = torch.float32 if device == "cpu" else torch.bfloat16
            name = str(Path(self._path).expanduser()) if Path(self._path).exists() else self._path
            try:
                tokenizer = AutoTokenizer.from_pretrained(name)
                model = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=dtype)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"--nli={self._path} is no sequence-to-sequence checkpoint ({error})"
                ) from error
            self._loaded = tokenizer, model.to(device).eval()
        return self._loaded
