"""Video-MME's facts: what a complete score is made of (lmms-lab/Video-MME ead1408)."""

from __future__ import annotations

DURATIONS = ("short", "medium", "long")
"""Under 2 minutes, 4 to 15 minutes, 30 to 60 minutes."""
VIDEOS = 300
"""Of each duration."""
QUESTIONS = 3
"""About each video."""
GROUPS = ("domain", "sub_category", "task_type")
"""Other labels that scores are told by."""
OVERALL = "overall"
"""The three durations together."""
