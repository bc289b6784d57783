"""A chat model behind an OpenAI-compatible endpoint, with a resumable cache.

The judge's wording is HELMET's: its evaluation scripts are read as text, never run
(``scripts/eval_gpt4_longqa.py`` and ``eval_gpt4_summ.py`` at commit 4526dfb).
"""

from __future__ import annotations

import ast
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rr_bench.judge.cache import ReplyCache

TEMPERATURE = 0.1
TOKENS = 4096
TRIES = 5
RETRY = (408, 409, 429, 500, 502, 503, 504)


class Endpoint:
    """Asks one model.

    Args:
        url: base address, for example ``https://api.openai.com/v1``.
        model: model name; HELMET's is ``gpt-4o-2024-05-13``.
        cache: earlier replies.
        key_variable: environment variable with the key; none is sent if it is not set.
        pause: seconds before the first retry; doubles with each.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: ReplyCache,
        *,
        key_variable: str = "OPENAI_API_KEY",
        pause: float = 2.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint={url}: expected an http or https address")
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._cache = cache
        self._key = os.environ.get(key_variable)
        self._pause = pause

    def ask(self, prompt: str, fields: Collection[str]) -> dict[str, float] | None:
        """Numbers a reply gives in its last JSON object, None if it gives none.

        Only a usable reply is cached, so that the next run asks again.

        Raises:
            ValueError: the endpoint refuses, or does not answer after several tries.
        """
        cached = self._cache.get(prompt)
        reply = self._request(prompt) if cached is None else cached
        numbers = last_json(reply, fields)
        if cached is None and numbers is not None:
            self._cache.put(prompt, reply)
        return numbers

    def _request(self, prompt: str) -> str:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": TEMPERATURE,
            "max_tokens": TOKENS,
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"])
            except urllib.error.HTTPError as error:
                if error.code not in RETRY or attempt == TRIES - 1:
                    raise ValueError(
                        f"the judge's endpoint says {error.code} {error.reason}"
                    ) from error
            except (urllib.error.URLError, TimeoutError) as error:
                if attempt == TRIES - 1:
                    raise ValueError(f"the judge's endpoint cannot be reached: {error}") from error
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError("the judge's endpoint does not speak OpenAI's format") from error
            time.sleep(self._pause * 2**attempt)
        raise AssertionError("unreachable")


def last_json(reply: str, fields: Collection[str]) -> dict[str, float] | None:
    """The last JSON object of a reply, if it holds a number for every field."""
    found = re.findall(r"\{.*?\}", reply, re.DOTALL)
    if not found:
        return None
    try:
        values = json.loads(found[-1])
    except ValueError:
        return None
    numbers = {name: values.get(name) for name in fields}
    ok = all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers.values())
    return numbers if ok else None


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
