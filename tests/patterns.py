"""Pattern files of MInference, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MIXED = [
    {
        "0": ["vertical_and_slash", 31, 101, 1.0],
        "1": ["stream_llm", 100, 300, 1.0],
        "2": ["block_sparse", 8, 1, 1.0],
    }
]


def write(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "patterns.json"
    path.write_text(json.dumps(content))
    return str(path)
