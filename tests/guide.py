"""Code blocks of CONTRIBUTING and README, by the file that the text before them names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files() -> dict[str, str]:
    """The files that CONTRIBUTING adds: path to content."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pattern = r"`([\w/]+\.(?:py|yaml))`[^`\n]*:\n\n```\w+\n(.*?)```"
    return {name: text for name, text in re.findall(pattern, guide, re.DOTALL)}


def snippets() -> list[str]:
    """The Python blocks of README, which need no file."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
