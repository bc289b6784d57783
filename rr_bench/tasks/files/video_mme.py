"""Video-MME's files as a user has them: questions, videos, subtitles.

The set (``lmms-lab/Video-MME``) may not be redistributed: users bring a folder with its videos, and the
questions as the hub's Parquet file or as JSONL with the same fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rr_bench.store.fingerprint import sampled_hash
from rr_bench.tasks.files.fields import Record
from rr_bench.tasks.files.hub import read_table
from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.settings import DataSettings
from rr_bench.video.images import folder_hash

FIELDS = (
    *("video_id", "duration", "domain", "sub_category", "url", "videoID"),
    *("question_id", "task_type", "question", "options", "answer"),
)
LETTERS = "ABCD"
ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
"""Tried in this order."""


@dataclass(frozen=True)
class Question:
    """One row of the set.

    Attributes:
        record: its fields, all text.
        options: four, each with its letter.
    """

    record: Record
    options: tuple[str, ...]

    def __getitem__(self, name: str) -> str:
        return str(self.record[name])


def video_dir(data: DataSettings) -> Path:
    """The folder of the videos.

    Raises:
        ValueError: it is not set, or does not exist.
    """
    folder = data.path("video_dir")
    if folder is None:
        raise ValueError("Video-MME needs its videos: set `data.video_dir`")
    if not folder.is_dir():
        raise ValueError(f"`data.video_dir`={folder} does not exist; give an existing folder")
    return folder


def questions_file(data: DataSettings) -> Path:
    """The file of the questions.

    Raises:
        ValueError: it is not set, and the folder of the videos does not hold exactly one.
    """
    given = data.path("video_questions")
    if given is not None:
        if not given.is_file():
            raise ValueError(f"`data.video_questions`={given} does not exist; give a file or null")
        return given
    folder = video_dir(data)
    for pattern in ("*.parquet", "videomme/*.parquet", "*.jsonl"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise ValueError(
                f"`data.video_dir` holds {names}: `data.video_questions` says which to read"
            )
    raise ValueError(
        f"`data.video_dir`={folder} holds no questions (Parquet or JSONL): set `data.video_questions`"
    )


def read_questions(path: Path, duration: str, notes: Notes) -> list[Question]:
    """The questions about videos of one duration, in the file's order.

    Raises:
        ValueError: the file has another layout, or no such questions; the row is named.
    """
    table = read_table([path], FIELDS, FIELDS, notes)
    rows = (table[number] for number in range(len(table)))
    found = [_question(row) for row in rows if row["duration"] == duration]
    if not found:
        raise ValueError(f"{path.name} holds no questions of duration {duration}")
    ids = [question["question_id"] for question in found]
    if len(set(ids)) != len(ids):
        raise ValueError(f"{path.name} holds a question_id twice")
    return found


def _question(row: Record) -> Question:
    """A checked row."""
    options = row["options"]
    fits = isinstance(options, list) and [str(one)[:2] for one in options] == [f"{c}." for c in LETTERS]
    if not fits:
        raise ValueError(f"{row.where}: options must be four, from 'A. ...' to 'D. ...'")
    if row["answer"] not in tuple(LETTERS):
        raise ValueError(f"{row.where}: the answer must be one of A to D, got {row['answer']!r}")
    return Question(row, tuple(options))


def video_file(folder: Path, stem: str) -> Path:
    """A video by its name without ending, or a folder of its frames; the usual name without either."""
    named = [folder / f"{stem}{ending}" for ending in ENDINGS]
    found = next((path for path in named if path.is_file()), named[0])
    return folder / stem if not found.is_file() and (folder / stem).is_dir() else found


def subtitle_file(data: DataSettings, stem: str) -> Path | None:
    """A video's subtitles, or None: 156 of the 900 videos have none."""
    given = data.path("subtitle_dir")
    folder = video_dir(data)
    folders = (folder / "subtitle", folder) if given is None else (given,)
    return next((path for one in folders if (path := one / f"{stem}.srt").is_file()), None)


def content_of(path: Path) -> str:
    """What tells one video's content from another's; empty for a missing one."""
    if path.is_dir():
        return folder_hash(path)
    return sampled_hash(path) if path.is_file() else ""
