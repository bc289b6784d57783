"""Video-MME as papers print it, with their scores (``results/paper/video_mme.csv``) below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rr_bench import PAPER
from rr_bench.report.table import Column, Table, best_caption
from rr_bench.tasks.video_mme_table import DURATIONS, OVERALL

NOT_NAMED = "not named"
"""Model of rows whose source does not say which it was."""

GROUPS = (*DURATIONS, OVERALL)

Place = tuple[str, str, int]
"""Setup, method and length."""

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


def paper_table(frame: pd.DataFrame, sparsity: Mapping[Place, float], models: Iterable[Asked]) -> Table:
    """``video_mme``: a row per method, a column per duration, published rows of the model below.

    Args:
        frame: scores by duration and over all, a row each, dense attention first.
        sparsity: of each row's cells, percent.
        models: asked in this store, for the published rows.
    """
    rows = []
    for _, own in frame.groupby(["setup", "method", "length"], sort=False):
        setup, method, length = own[["setup", "method", "length"]].iloc[0]
        row: dict[str, Any] = {"setup": setup, "method": method, "length": length}
        for found in own.to_dict("records"):
            ends = ("", "score"), (" lo", "score_lo"), (" hi", "score_hi")
            row |= {f"{found['group']}{end}": found[column] for end, column in ends}
        rows.append(row | {"sparsity": sparsity[setup, method, length], "source": "this store"})
    best = frozenset(_best(rows))
    table = pd.DataFrame(rows)
    published = [row for model in dict.fromkeys(models) for row in _published(model)]
    table = pd.concat([table, pd.DataFrame(published)]) if published else table
    one = {name for name in ("setup", "length") if table[name].nunique() < 2}
    columns = {name: column for name, column in _heads().items() if name not in one}
    caption = best_caption(best)
    caption += " Published rows are at their own settings of frames and words." if published else ""
    shown = table.reindex(columns=list(columns)).reset_index(drop=True)
    return Table("video_mme", "Video-MME", shown, columns, caption, best)


def _best(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Row and column of the best sparse method where its interval lies above those of the others."""
    for number, row in enumerate(rows):
        place = row["setup"], row["length"]
        others = [one for one in rows if (one["setup"], one["length"]) == place and one is not row]
        others = [one for one in others if one["method"] != "full"]
        for name in GROUPS if others and row["method"] != "full" else ():
            low = row.get(f"{name} lo", math.nan)
            if all(low > one.get(f"{name} hi", math.nan) for one in others):
                yield number, name


def _heads() -> dict[str, Column]:
    meaning = "right answers / asked, % (95 % interval over videos)"
    scores: dict[str, Column] = {}
    for name in GROUPS:
        ends = f"{name} lo", f"{name} hi"
        scores |= {name: Column(meaning, 1, ends)} | dict.fromkeys(ends, Column("end of it", 1))
    return {
        "setup": Column("model and the settings that its cells share"),
        "length": Column("length of the cells, tokens"),
        "method": Column("method with its settings"),
        **scores,
        "sparsity": Column("skipped share of the causal blocks, %", 1),
        "source": Column("where the row comes from"),
    }


def _published(asked: Asked) -> Iterator[dict[str, Any]]:
    for row in published_scores(asked).to_dict("records"):
        setting = "" if pd.isna(row["setting"]) else f"({row['setting']})"
        told = ("; model not named" if row["model"] == NOT_NAMED else "") + "; subtitles" * asked[1]
        yield {
            "method": f"{row['method']}{setting}",
            **{name: row[name] for name in (*GROUPS, "sparsity")},
            "source": f"{row['source']}{told}",
        }
