"""A chat model behind an OpenAI-compatible endpoint, with a resumable cache.

The judge's wording is HELMET's: its evaluation scripts are read as text, never run
(``scripts/eval_gpt4_longqa.py`` and ``eval_gpt4_summ.py`` at commit 4526dfb).
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rr_bench.judge.cache import ReplyCache

TEMPERATURE = 0.1
TOKENS = 4096
NO_KEY = "none"
FOREIGN = "the judge's endpoint does not speak OpenAI's format"
SECONDS = 300
RETRIES = 4
"""Of one question, by the ``openai`` package: after time-outs, refused connections, 429 and 5xx."""


class Endpoint:
    """Asks one model.

    Args:
        url: base address, for example ``https://api.openai.com/v1``.
        model: model name; HELMET's is ``gpt-4o-2024-05-13``.
        cache: earlier replies.
        key_variable: environment variable with the key; without it the word ``none`` is sent, which
            local servers accept.

    Raises:
        ValueError: the address is none, or the ``openai`` package is missing.
    """

    def __init__(
        self, url: str, model: str, cache: ReplyCache, *, key_variable: str = "OPENAI_API_KEY"
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint={url}: expected an http or https address")
        try:
            import openai
        except ImportError as error:
            raise ValueError(
                "--endpoint needs the openai package: pip install 'rr-bench[judge]'"
            ) from error
        self._openai = openai
        # Without a key of its own the package would take another variable's.
        key = os.environ.get(key_variable) or NO_KEY
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=SECONDS, max_retries=RETRIES)
        self._model = model
        self._cache = cache

    def ask(self, prompt: str, fields: Collection[str]) -> dict[str, float] | None:
        """Numbers that a reply gives for every field, None if it does not.

        Only a usable reply is cached, so that the next run asks again.

        Raises:
            ValueError: the endpoint refuses, or does not answer after several tries.
        """
        cached = self._cache.get(prompt)
        reply = self._request(prompt) if cached is None else cached
        numbers = numbers_in(reply, fields)
        if cached is None and numbers is not None:
            self._cache.put(prompt, reply)
        return numbers

    def _request(self, prompt: str) -> str:
        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                temperature=TEMPERATURE,
                max_tokens=TOKENS,
            )
        except self._openai.APIStatusError as error:
            raise ValueError(
                f"the judge's endpoint says {error.status_code} {error.response.reason_phrase}"
            ) from error
        except self._openai.APIConnectionError as error:
            raise ValueError(f"the judge's endpoint cannot be reached: {error}") from error
        except (self._openai.OpenAIError, ValueError) as error:
            raise ValueError(FOREIGN) from error
        try:
            return answer.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(FOREIGN) from error


def numbers_in(reply: str, fields: Collection[str]) -> dict[str, float] | None:
    """What a reply says last as JSON, if it holds a number for every field.

    That is its last pair of braces, or, where this is no JSON of its own, the block fenced as
    ``json``. HELMET reads summaries' replies so; of NarrativeQA's it drops the fenced ones, which are
    used here as well.
    """
    braces = re.findall(r"\{.*?\}", reply, re.DOTALL)[-1:]
    fenced = reply.partition("```json")[2].rpartition("```")[0]
    for text in (*braces, fenced):
        try:
            values = json.loads(text)
        except ValueError:
            continue
        if not isinstance(values, dict):
            return None
        numbers = {name: float(values[name]) for name in fields if _is_number(values.get(name))}
        return numbers if len(numbers) == len(fields) else None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def prompt_constants(path: Path, names: Collection[str]) -> dict[str, str]:
    """String constants a Python file assigns at its top level; the file is parsed, not run.

    Raises:
        ValueError: the file or one of the names is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; `python -m rr_bench.download` gets HELMET's prompts")
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
    missing = [name for name in names if not isinstance(found.get(name), str)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: another version of HELMET?")
    return {name: found[name] for name in names}


def answer_score(numbers: Mapping[str, float]) -> float:
    """NarrativeQA: fluency (0, 1) times correctness (0 to 3), in 0..1."""
    return numbers["fluency"] * numbers["correctness"] / 3


def summary_f1(
    fluency: Mapping[str, float],
    recall: Mapping[str, float],
    precision: Mapping[str, float],
    keypoints: int,
) -> float:
    """Summaries: fluency times the F1 of key-point recall and sentence precision, in 0..1."""
    found = recall["recall"] / keypoints if keypoints else 0.0
    count = precision["sentence_count"]
    right = precision["precision"] / count if count > 0 else 0.0
    return fluency["fluency"] * 2 * found * right / (found + right) if found + right > 0 else 0.0
