"""rr_bench measures how much of a model's score survives a sparse prefill, and what that buys in time.

The folders tell the story: ``config`` → ``plan`` → ``run`` (with ``model`` and ``tasks``) → ``store``
→ ``report``. This module only knows where the project's own files lie.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

ROOT = _PACKAGE.parent
"""The repository; of an installed copy the folder that its packages lie in."""

IN_REPOSITORY = (ROOT / "pyproject.toml").is_file()

CONF = ROOT / "conf" if IN_REPOSITORY else _PACKAGE / "conf"
"""Hydra's config groups."""

TASKS = ROOT / "tasks" if IN_REPOSITORY else _PACKAGE / "task_files"
"""lm-eval's task definitions."""

PAPER = ROOT / "results" / "paper" if IN_REPOSITORY else _PACKAGE / "paper"
"""Published numbers."""

SLURM = ROOT / "slurm" if IN_REPOSITORY else _PACKAGE / "slurm"
"""Job scripts of ``action=submit``."""
