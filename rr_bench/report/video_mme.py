"""Video-MME's scores: by duration, over all three, by domain, sub-category and kind of question.

A question without a score (a video that cannot be read) is wrong and counted as asked. The official
score leaves out what the parser could not read, so both stand side by side. Over all durations there is
a number only if each is complete: 300 videos, three questions each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from rr_bench.report.identity import Identity
from rr_bench.report.load import natural
from rr_bench.report.recovery import pooled
from rr_bench.report.table import Column, Table
from rr_bench.report.video_mme_paper import Asked, Place, paper_table
from rr_bench.store.records import SampleRecord
from rr_bench.store.stored import StoredCell
from rr_bench.tasks.video_mme_table import DURATIONS, GROUPS, OVERALL, QUESTIONS, VIDEOS

COLUMNS = {
    "setup": Column("model and the settings that its cells share"),
    "method": Column("method with its settings"),
    "length": Column("length of the cells, tokens"),
    "by": Column("what the questions are grouped by"),
    "group": Column("the group; over all durations only where each has its 300 videos"),
    "videos": Column("videos asked about"),
    "asked": Column("questions asked, those without a score included"),
    "answered": Column("questions whose output names an option"),
    "failed": Column("questions without a score: no frames, no memory; wrong in the score"),
    "score": Column(
        "right answers / asked, % (95 % interval over videos)", 1, ("score_lo", "score_hi")
    ),
    "score_lo": Column("lower end of the interval", 1),
    "score_hi": Column("upper end of the interval", 1),
    "official": Column("right answers / answered, %, as the official scorer counts", 1),
    "argmax": Column("likeliest letter right / asked, %; nothing is parsed", 1),
}

RESAMPLES = 2000


_QUESTION = frozenset(("video_id", "question_id", "duration"))
"""Labels of a question."""


def asked(cells: Sequence[StoredCell]) -> dict[str, Asked]:
    """Model and whether there were subtitles, by setup, of the cells that answer Video-MME."""
    asking = [cell for cell in cells if cell.columns.labels >= _QUESTION]
    if not asking:
        return {}
    identity, found = Identity(cells), {}
    for cell in asking:
        subtitles = cell.info.settings["data"].get("subtitles", "none") != "none"
        found[str(identity.columns(cell)["setup"])] = str(cell.info.model["name"]), subtitles
    return found


def answers(cells: Sequence[StoredCell]) -> dict[Place, list[SampleRecord]]:
    """All answers of each setup and method at a length, whichever tasks asked, a question once.

    Dense attention comes first.
    """
    identity = Identity(cells)
    found: dict[Place, dict[str, SampleRecord]] = defaultdict(dict)
    for cell in cells:
        columns = identity.columns(cell)
        place = columns["setup"], columns["series"], cell.info.length
        for sample in cell.samples if cell.columns.labels >= _QUESTION else ():
            if sample.labels.keys() >= _QUESTION:
                found[place][sample.labels["question_id"]] = sample
    order = sorted(found, key=lambda one: (one[0], one[1] != "full", natural(one[1]), one[2]))
    return {place: sorted(found[place].values(), key=_official_order) for place in order}


def _official_order(sample: SampleRecord) -> tuple[int, str]:
    """Short videos first; then by question."""
    duration = sample.labels["duration"]
    rank = DURATIONS.index(duration) if duration in DURATIONS else len(DURATIONS)
    return rank, sample.labels["question_id"]


def score_frame(cells: Sequence[StoredCell]) -> pd.DataFrame:
    """One row per method, length and group of questions: the keys of :data:`COLUMNS`, in percent."""
    rows = []
    for (setup, method, length), samples in answers(cells).items():
        where = {"setup": setup, "method": method, "length": length}
        for by in ("duration", *GROUPS):
            groups = grouped(samples, by)
            names = DURATIONS if by == "duration" else sorted(groups)
            told = [(name, groups[name]) for name in names if name in groups]
            resamples = RESAMPLES if by == "duration" else 0
            rows += [{**where, "by": by, "group": name, **tally(one, resamples)} for name, one in told]
        whole = tally(samples) if complete(samples) else {"videos": len(grouped(samples, "video_id"))}
        rows.append({**where, "by": OVERALL, "group": OVERALL, **whole})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("videos", "asked", "answered", "failed"), "Int64"))


def grouped(samples: Sequence[SampleRecord], label: str) -> dict[str, list[SampleRecord]]:
    """Samples by one of their labels."""
    found: dict[str, list[SampleRecord]] = defaultdict(list)
    for sample in samples:
        found[sample.labels.get(label, "")].append(sample)
    return found


def complete(samples: Sequence[SampleRecord]) -> bool:
    """Whether every duration has all of its videos and questions."""
    durations = grouped(samples, "duration")
    return all(
        len(grouped(one, "video_id")) == VIDEOS and len(one) == QUESTIONS * VIDEOS
        for one in (durations.get(duration, []) for duration in DURATIONS)
    )


def tally(samples: Sequence[SampleRecord], resamples: int = RESAMPLES) -> dict[str, float]:
    """Counts and scores of some questions, at least one; 0 resamples give no interval."""
    right = [float(sample.score or 0.0) for sample in samples]
    answered = sum(bool(sample.answered) for sample in samples)
    scores = [(a, 1.0, s.labels["video_id"]) for a, s in zip(right, samples, strict=True)]
    # Of a constant 1 the recovery is the score itself, and its interval the score's.
    ends = pooled([scores], resamples) if resamples else None
    likeliest = [s.argmax_letter == s.golds[0] for s in samples if s.argmax_letter is not None]
    return {
        "videos": len(grouped(samples, "video_id")),
        "asked": len(samples),
        "answered": answered,
        "failed": sum(sample.error is not None for sample in samples),
        "score": 100 * sum(right) / len(right),
        "score_lo": ends.lo if ends else math.nan,
        "score_hi": ends.hi if ends else math.nan,
        "official": 100 * sum(right) / answered if answered else 0.0,
        "argmax": 100 * sum(likeliest) / len(samples) if likeliest else math.nan,
    }


def score_tables(cells: Sequence[StoredCell]) -> list[Table]:
    """Three tables: as papers print it; by duration and over all with counts; by everything else.

    None without Video-MME.
    """
    models = asked(cells)
    if not models:
        return []
    frame = score_frame(cells)
    short = frame["by"].isin(("duration", OVERALL))
    sparsity = {place: _sparsity(samples) for place, samples in answers(cells).items()}
    return [
        paper_table(frame[short], sparsity, models.values()),
        _table("video_mme_durations", "Video-MME by duration", frame[short].drop(columns="by")),
        _table("video_mme_groups", "Video-MME by domain, sub-category and task type", frame[~short]),
    ]


def _sparsity(samples: Sequence[SampleRecord]) -> float:
    """Skipped share of the causal blocks, percent; NaN without a density."""
    densities = [one.density for one in samples if one.density is not None]
    return 100 - 100 * sum(densities) / len(densities) if densities else math.nan


def _table(name: str, title: str, frame: pd.DataFrame) -> Table:
    one = {name for name in ("setup", "length") if frame[name].nunique() < 2}
    columns = {key: column for key, column in COLUMNS.items() if key in frame and key not in one}
    return Table(name, title, frame[list(columns)].reset_index(drop=True), columns)
