"""A judge's replies on disk, so that a stopped judgement goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rr_bench.store.jsonl import append_line, drop_torn_line


class ReplyCache:
    """Replies by judge and question, one line each, synced as they come.

    Args:
        path: the JSONL file; made with the first reply.
        judge: what tells judges apart: model, dtype, temperature.

    Raises:
        ValueError: a line of the file is corrupt.
    """

    def __init__(self, path: Path, judge: str) -> None:
        self._path = path
        self._judge = judge
        self._replies: dict[str, str] = {}
        drop_torn_line(path)
        for number, line in enumerate(path.open("rb") if path.exists() else [], start=1):
            try:
                entry = json.loads(line)
                self._replies[entry["key"]] = entry["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: no reply; delete the line") from error

    def get(self, question: str) -> str | None:
        """The reply to a question, None if it was never asked."""
        return self._replies.get(self._key(question))

    def put(self, question: str, reply: str) -> None:
        """Keep a reply."""
        key = self._key(question)
        self._replies[key] = reply
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
            append_line(file, json.dumps({"key": key, "judge": self._judge, "reply": reply}))

    def _key(self, question: str) -> str:
        return hashlib.sha256(f"{self._judge}\0{question}".encode()).hexdigest()
