"""What an offline run of Weights & Biases holds, read from its file without the package's own reader.

The file is a log in LevelDB's format: blocks of 32 KiB, in them chunks of checksum, length and kind.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD, MAGIC = 32768, 7, b":W&B"
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file as protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data.startswith(MAGIC)
    at, message = HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEAD])
        message += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (FULL, LAST):
            yield Record.FromString(message)
            message = b""


class OfflineRun:
    """One offline run: ``config``, ``history`` (a mapping per step), ``summary``, ``artifacts``.

    Values inside history and summary are keyed by their names joined with dots.
    """

    def __init__(self, folder: Path) -> None:
        (self.path,) = folder.glob("*.wandb")
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: dict[str, Any] = {}
        for record in records(self.path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config = _values(record.run.config.update)
            elif kind == "history":
                self.history.append(_values(record.history.item))
            elif kind == "summary":
                self.summary |= _values(record.summary.update)
            elif kind == "artifact":
                self.artifacts[record.artifact.type] = record.artifact

    def table(self, name: str) -> dict[str, Any]:
        """A logged table: ``columns`` and ``data``."""
        path = self.folder / "files" / self.summary[f"tables/{name}.path"]
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_runs(out: Path) -> list[OfflineRun]:
    return [OfflineRun(folder) for folder in sorted((out / "wandb").glob("offline-run-*"))]
