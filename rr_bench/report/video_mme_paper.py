"""Published Video-MME scores (``results/paper/video_mme.csv``)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from rr_bench import PAPER
from rr_bench.tasks.video_mme_table import DURATIONS, OVERALL

NOT_NAMED = "not named"
"""Model of rows whose source does not say which it was."""

Asked = tuple[str, bool]
"""Model, by its name in the tables, and whether it was asked with subtitles."""


def published_scores(asked: Asked, folder: Path = PAPER) -> pd.DataFrame:
    """Published scores of a model, in percent, and those of a model that is not named.

    Args:
        asked: the model, whose case does not count. Without rows of its own it has none at all.
        folder: of the published figures.
    """
    path = folder / "video_mme.csv"
    if not path.is_file():
        return pd.DataFrame()
    model, subtitles = asked
    frame = pd.read_csv(path).rename(columns={"average": OVERALL})
    frame = frame[frame["subtitles"] == ("yes" if subtitles else "no")]
    own = frame[frame["model"].str.casefold() == model.casefold()]
    return own if own.empty else pd.concat([own, frame[frame["model"] == NOT_NAMED]])


def published_lines(asked: Iterable[Asked], folder: Path = PAPER) -> list[str]:
    """The same as Markdown list items."""
    lines: dict[str, None] = {}
    for one in asked:
        for _, row in published_scores(one, folder).iterrows():
            setting = "" if pd.isna(row["setting"]) else f" ({row['setting']})"
            model = "model not named" if row["model"] == NOT_NAMED else row["model"]
            asked_with = "with subtitles, " if one[1] else ""
            names = (name for name in (*DURATIONS, OVERALL) if not pd.isna(row[name]))
            scores = ", ".join(f"{name} {row[name]:.1f}" for name in names)
            lines[f"- {model}, {asked_with}{row['method']}{setting}: {scores} — {row['source']}"] = None
    return list(lines)
