"""Video-MME's scores by duration and over all, published ones of the same model in grey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from rr_bench import PAPER
from rr_bench.report.drawing import Album, interval_line, new_figure
from rr_bench.report.load import natural
from rr_bench.report.style import RC, method_styles
from rr_bench.report.video_mme import asked, score_frame
from rr_bench.report.video_mme_paper import GROUPS, published_scores
from rr_bench.store.stored import StoredCell

_PUBLISHED: dict[str, Any] = {"color": "#888888", "linestyle": (0, (2, 1.5)), "linewidth": 0.6}


def draw_video_mme(cells: Sequence[StoredCell], album: Album, folder: Path = PAPER) -> None:
    """Figures ``video_mme``; none without answers to it.

    Args:
        cells: current cells of a store.
        album: takes one figure per setup and length.
        folder: of the published figures.
    """
    models = asked(cells)
    if not models:
        return
    frame = score_frame(cells)
    shown = frame[frame["group"].isin(GROUPS) & frame["score"].notna()]
    parts = list(shown.groupby(["setup", "length"], sort=False))
    with matplotlib.rc_context(RC):
        for number, ((setup, _), rows) in enumerate(parts, 1):
            suffix = f"-{number}" if len(parts) > 1 else ""
            album.add(_figure(rows, published_scores(models[str(setup)], folder)), f"video_mme{suffix}")


def _figure(own: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Durations from left to right, then all together; a line for each method."""
    names = sorted(own["method"].unique(), key=natural)
    styles = method_styles((name.partition("(")[0], name) for name in names)
    figure = new_figure(2.3)
    axes = figure.subplots()
    places = range(len(GROUPS))
    whole = published.dropna(subset=list(GROUPS)) if len(published) else published
    for number, (_, row) in enumerate(whole.iterrows()):
        label = None if number else "published"
        axes.plot(
            places,
            [row[group] for group in GROUPS],
            label=label,
            marker="x",
            markersize=3,
            **_PUBLISHED,
        )
    for name in names:
        rows = own[own["method"] == name]
        at = [GROUPS.index(str(group)) for group in rows["group"]]
        interval_line(axes, at, rows, "score", {**styles[name], "label": name})
    axes.set_xticks(list(places), list(GROUPS))
    axes.set_ylabel("Score (%)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
