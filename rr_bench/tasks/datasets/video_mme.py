"""``videomme_short``, ``_medium``, ``_long``: Video-MME's multiple choice about a user's videos.

900 videos, three questions each (arXiv 2405.21075). A score is the share of all questions asked; a
video that is missing or cannot be decoded is a failed sample with its reason. The questions of one
video are one unit of the interval. ``length`` is the most video tokens that a clip may take: one that
takes more is an error, never cut.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rr_bench.tasks.files.notes import Notes
from rr_bench.tasks.files.subtitles import read_srt, shown
from rr_bench.tasks.files.video_mme import (
    Question,
    content_of,
    questions_file,
    read_questions,
    subtitle_file,
    video_dir,
    video_file,
)
from rr_bench.tasks.metrics.choices import PARSERS
from rr_bench.tasks.prompts.rows import Row
from rr_bench.tasks.prompts.tokens import count_tokens
from rr_bench.tasks.prompts.video_mme import video_prompt
from rr_bench.tasks.settings import DataSettings, Settings
from rr_bench.tasks.video import VideoFrames
from rr_bench.tasks.video_settings import PREFIX
from rr_bench.video.decode import readers
from rr_bench.video.errors import VideoError

PROMPTS = 1
SCORER = 1

LABELS = ("video_id", "question_id", "duration", "domain", "sub_category", "task_type")
"""Fields of a question that a record keeps; its words are not the project's to pass on."""


def files(name: str, length: int, data: DataSettings) -> list[Path]:
    """The questions, and the subtitles that can be shown. Each row carries its video's own hash.

    Raises:
        ValueError: the folder is missing, or has no questions of this duration.
    """
    path = questions_file(data)
    asked = read_questions(path, name.removeprefix(PREFIX), Notes())
    if data.subtitles == "none":
        return [path]
    stems = dict.fromkeys(question["videoID"] for question in asked)
    return [path, *(file for stem in stems if (file := subtitle_file(data, stem)) is not None)]


def readers_of(data: DataSettings) -> list[str]:
    """What decodes the videos, with versions.

    Raises:
        ValueError: it is not installed.
    """
    return readers(data.video_decoder)


def rows(name: str, settings: Settings, notes: Notes) -> list[Row]:
    """Rows of one duration: videos in an order of the seed's, each with its questions.

    Raises:
        ValueError: a setting is wrong, or the questions are missing or corrupt.
    """
    data = settings.data
    asked = read_questions(questions_file(data), name.removeprefix(PREFIX), notes)
    of_video: dict[str, list[Question]] = {}
    for question in asked:
        of_video.setdefault(question["video_id"], []).append(question)
    order = sorted(of_video)
    random.Random(f"video-mme-{settings.seed}").shuffle(order)
    chosen = [question for video in order for question in of_video[video]][: settings.samples]
    frames = VideoFrames(data)
    stems = dict.fromkeys(question["videoID"] for question in chosen)
    words = {stem: _subtitles(frames, settings, stem, notes) for stem in stems}
    videos = {stem: _video(data, stem) for stem in stems}
    return [
        _row(name, settings, question, words[question["videoID"]], videos[question["videoID"]])
        for question in chosen
    ]


def _video(data: DataSettings, stem: str) -> str:
    """A row's video: where it lies, and what tells it from another in its place."""
    path = video_file(video_dir(data), stem)
    return json.dumps({"file": str(path), "content": content_of(path)})


def _subtitles(frames: VideoFrames, settings: Settings, stem: str, notes: Notes) -> list[str] | None:
    """What is shown of a video's subtitles; None where none are asked for."""
    data = settings.data
    if data.subtitles == "none":
        return None
    file = subtitle_file(data, stem)
    if file is None:
        notes.flag("no subtitles", stem)
        return []
    path = video_file(video_dir(data), stem)
    try:
        seen = frames.sampled(path, settings.length)
    except VideoError:
        # The sample fails with the reason when its frames are needed.
        return []
    return shown(
        data.subtitles,
        read_srt(file),
        indices=seen.indices.tolist(),
        seconds=seen.seconds.tolist(),
        fps=seen.fps,
        total=seen.total_frames,
    )


def _row(
    name: str, settings: Settings, question: Question, subtitles: list[str] | None, video: str
) -> Row:
    """One question as a row."""
    data = settings.data
    prompt = video_prompt(data.video_prompt, question["question"], question.options, subtitles)
    tokens = count_tokens(settings.tokenizer, prompt, special=False)
    return {
        "uid": f"{name}-{settings.length}-{question['question_id']}",
        "dataset": name,
        "length": settings.length,
        "prompt": prompt,
        "chat": False,
        "golds": json.dumps([question["answer"]]),
        "extra": json.dumps({"subtitles": None if subtitles is None else len(subtitles)}),
        "input_len": tokens,
        "budget": settings.length,
        "truncated": False,
        "removed_tokens": 0,
        "source": "video_mme",
        "video": video,
        "parser": data.answer_parser,
        "cluster": question["video_id"],
        "labels": json.dumps({field: question[field] for field in LABELS}),
    }


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the letter read from the output is the right one; 0 if there is none."""
    letter = letter_of(doc, results[0])
    return {"score": float([letter] == json.loads(doc["golds"])), "answered": float(letter is not None)}


def letter_of(doc: Mapping[str, Any], output: str) -> str | None:
    """The option that an output chooses."""
    return PARSERS[doc["parser"]](output)
