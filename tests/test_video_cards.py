"""Flash cards: clips as mp4 files and back, questions, and the rows of the two tasks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from rr_bench import ROOT
from rr_bench.tasks.datasets import video_cards
from rr_bench.tasks.sources import VIDEO_TASKS, rows_of
from rr_bench.tasks.synthetic.cards import (
    KEYS,
    Card,
    card_frame,
    clip_frames,
    draw_clip,
    draw_options,
)
from rr_bench.video.clips import write_video
from rr_bench.video.frame_set import FrameStore
from rr_bench.video.pixels import PixelRule
from rr_bench.video.sampling import Sampling

MODEL = str(ROOT / "rr_bench/probe/video/model")


def test_every_card_looks_different() -> None:
    frames = {card_frame(Card(key, key % 10)).tobytes() for key in range(KEYS)}
    assert len(frames) == KEYS
    assert len({card_frame(Card(0, digit)).tobytes() for digit in range(10)}) == 10


@pytest.mark.parametrize(("patches", "cards"), [(8, 6), (8, 8), (256, 96), (1024, 96), (2048, 512)])
def test_a_clip_shows_each_card_once_in_one_stretch(patches: int, cards: int) -> None:
    for seed in range(5):
        clip = draw_clip(random.Random(seed), patches, cards)
        assert len(clip.shown) == patches and len({card.key for card in clip.cards}) == cards
        changes = [a for a, b in zip(clip.shown, [*clip.shown[1:], None], strict=True) if a != b]
        shown = [number for number in changes if number >= 0]
        assert shown == list(range(cards))
        assert patches < 2 * cards or clip.shown.count(-1) > 0


def test_more_cards_than_room_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        draw_clip(random.Random(0), 4, 5)


def test_options_are_four_different_digits_with_the_right_one() -> None:
    for seed in range(50):
        options = draw_options(random.Random(seed), seed % 10)
        assert len(set(options)) == 4 and seed % 10 in options


def test_a_written_clip_reads_back_as_drawn(tmp_path: Path) -> None:
    clip = draw_clip(random.Random(1), 16, 6)
    frames = clip_frames(clip, random.Random(2))
    write_video(tmp_path / "clip.mp4", frames, 2)
    store = FrameStore(tmp_path / "frames")
    found = store.load(tmp_path / "clip.mp4", Sampling("all"), PixelRule("none"))
    back = np.asarray(found.frames)
    assert found.sample_fps == 2.0 and found.seconds[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 4
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "frames"}  # nothing half-written


def rows(task: str, samples: int = 4, length: int = 256, **more):
    return rows_of(task, tokenizer=MODEL, length=length, samples=samples, **more)


def test_three_questions_are_asked_about_each_clip() -> None:
    made = rows("video_cards", 7)
    clips = [json.loads(row["video"])["number"] for row in made]
    assert clips == [0, 0, 0, 1, 1, 1, 2]
    assert len({row["prompt"] for row in made}) == 7
    assert [row["prompt"] for row in rows("video_cards", 2)] == [row["prompt"] for row in made[:2]]


def test_the_letters_stand_where_the_spans_say_and_are_right() -> None:
    (row,) = rows("video_cards_prefill", 1)
    clip = video_cards.clip_of(256, 42, 0)
    digit_of = {card.words: str(card.digit) for card in clip.cards}
    golds, spans = json.loads(row["golds"]), json.loads(row["spans"])
    assert len(golds) == len(spans) == 32
    questions = row["prompt"].split("Digit ")[1:]
    for gold, (start, end), question in zip(golds, spans, questions, strict=True):
        assert row["prompt"][start:end] == gold
        words, _, rest = question.partition(" ? ")
        options = dict(zip(rest.split()[:8:2], rest.split()[1:8:2], strict=True))
        assert options[gold] == digit_of[words]


def test_clips_are_written_once_and_do_not_depend_on_the_task(tmp_path: Path) -> None:
    video = json.loads(rows("video_cards", 1)[0]["video"])
    assert video == json.loads(rows("video_cards_prefill", 1)[0]["video"])
    path = video_cards.write_clip(video, tmp_path)
    written = path.stat().st_mtime_ns
    assert video_cards.write_clip(video, tmp_path) == path and path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("output", "letter", "score"),
    [("B", "B", 1.0), (" C.", "C", 0.0), ("7", None, 0.0), ("", None, 0.0)],
)
def test_the_first_letter_counts(output: str, letter: str | None, score: float) -> None:
    graded = video_cards.process_results({"golds": '["B"]'}, [output])
    assert video_cards.letter_of({}, output) == letter
    assert graded == {"score": score, "answered": float(letter is not None)}


@pytest.mark.parametrize("task", VIDEO_TASKS[:2])
def test_a_length_without_room_is_named(task: str) -> None:
    with pytest.raises(ValueError, match="lengths"):
        rows(task, 1, length=8)
