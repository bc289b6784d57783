"""Video-MME's questions as rows: files, prompts, subtitles, scores, and what identifies them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rr_bench.tasks.files.video_mme import video_file
from rr_bench.tasks.settings import DataSettings
from rr_bench.tasks.sources import VIDEO_MME, identity, module_of, rows_of, source_of, versions
from rr_bench.tasks.video import VideoFrames
from rr_bench.tasks.video_settings import VideoSettings
from rr_bench.video.errors import VideoError
from tests import video_clips
from tests.helmet_layout import word_tokenizer_dir
from tests.video_mme_layout import OPTIONS, question, write_questions

TASK = "videomme_short"


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    return word_tokenizer_dir(tmp_path_factory.mktemp("words") / "tokenizer", chat=False)


@pytest.fixture
def folder(tmp_path) -> Path:
    rows = [question(f"{video:03d}", f"v{video}", number) for video in range(4) for number in (1, 2, 3)]
    rows += [question("900", "long_one", 1, "long")]
    write_questions(tmp_path / "test-00000-of-00001.parquet", rows)
    return tmp_path


def rows(folder: Path, words: str, samples: int = 100, task: str = TASK, **data):
    given = {"length": 4096, "samples": samples, "tokenizer": words, "video_dir": str(folder)}
    return rows_of(task, **{**given, **data})


def test_rows_of_one_duration(folder, words):
    made = rows(folder, words)
    assert len(made) == 12 and len({row["uid"] for row in made}) == 12
    (row,) = [one for one in made if one["uid"] == "videomme_short-4096-002-3"]
    assert row["prompt"].startswith("Select the best answer") and "\nA. One.\nB. Two." in row["prompt"]
    assert json.loads(row["golds"]) == ["D"] and row["cluster"] == "002"
    assert json.loads(row["labels"]) == {
        "video_id": "002",
        "question_id": "002-3",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "task_type": "Counting Problem",
    }
    assert [one["cluster"] for one in rows(folder, words, task="videomme_long")] == ["900"]


def test_fewer_samples_are_a_prefix_of_whole_videos(folder, words):
    whole = [row["uid"] for row in rows(folder, words)]
    assert [row["uid"] for row in rows(folder, words, 5)] == whole[:5]
    assert len({uid.split("-")[2] for uid in whole[:6]}) == 2
    assert [row["uid"] for row in rows(folder, words, seed=1)] != whole


def test_the_same_rows_from_jsonl(folder, words):
    before = rows(folder, words)
    (parquet,) = folder.glob("*.parquet")
    parquet.unlink()
    made = [question(f"{video:03d}", f"v{video}", number) for video in range(4) for number in (1, 2, 3)]
    write_questions(folder / "questions.jsonl", made)
    assert rows(folder, words) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": OPTIONS[:3]}, "options must be four"),
        ({"options": ["One", "Two", "Three", "Four"]}, "options must be four"),
        ({"answer": "E"}, "the answer must be one of A to D"),
        ({"question_id": "1-1"}, "question_id twice"),
        ({"duration": "huge", "question_id": "1-3"}, None),
    ],
)
def test_corrupt_questions_are_named(tmp_path, words, change, message):
    second = question("1", "v", 2) | change
    write_questions(tmp_path / "q.jsonl", [question("1", "v", 1), second])
    if message is None:
        assert len(rows(tmp_path, words)) == 1
        return
    with pytest.raises(ValueError, match=message):
        rows(tmp_path, words)


def test_missing_files_are_named(tmp_path, words):
    for data, message in (
        ({}, "set `data.video_dir`"),
        ({"video_dir": str(tmp_path / "no")}, "does not exist"),
        ({"video_dir": str(tmp_path)}, "holds no questions"),
    ):
        with pytest.raises(ValueError, match=message):
            identity(TASK, 4096, DataSettings(**data))
    for name in ("a.jsonl", "b.jsonl"):
        write_questions(tmp_path / name, [question("1", "v", 1)])
    with pytest.raises(ValueError, match=r"a.jsonl, b.jsonl: `data.video_questions`"):
        identity(TASK, 4096, DataSettings(video_dir=str(tmp_path)))
    chosen = DataSettings(video_dir=str(tmp_path), video_questions=str(tmp_path / "b.jsonl"))
    assert list(identity(TASK, 4096, chosen)["files"]) == ["b.jsonl"]
    with pytest.raises(ValueError, match="no questions of duration medium"):
        identity("videomme_medium", 4096, chosen)


SRT = "1\n00:00:00,000 --> 00:00:02,500\n<font>Hello</font>\n\n2\n00:00:02,600 --> 00:00:02,650\nBye\n"


def test_subtitles_of_the_frames_that_are_shown(folder, words, tmp_path):
    video_clips.clip(folder / "v0.mp4")
    (folder / "subtitle").mkdir()
    (folder / "subtitle" / "v0.srt").write_text(SRT)
    data = {"subtitles": "official", "frames": 4, "video_cache": str(tmp_path / "cache")}
    made = {row["uid"]: row for row in rows(folder, words, **data)}
    told = made["videomme_short-4096-000-1"]["prompt"]
    # Frames 0, 10, 19 and 29: the first lies on the cue's edge, the last behind both.
    assert told.startswith("This video's subtitles are listed below:\nHello\nHello\nSelect")
    # A video without subtitles is asked as without.
    assert made["videomme_short-4096-001-1"]["prompt"].startswith("Select")
    files = identity(TASK, 4096, DataSettings(video_dir=str(folder), subtitles="official"))["files"]
    assert "v0.srt" in files


def test_a_row_knows_its_video(folder, words):
    before = {row["cluster"]: json.loads(row["video"])["content"] for row in rows(folder, words)}
    assert set(before.values()) == {""}
    (folder / "v1.mkv").write_bytes(b"a video")
    after = {row["cluster"]: json.loads(row["video"]) for row in rows(folder, words)}
    assert after["001"]["file"].endswith("v1.mkv") and len(after["001"]["content"]) == 64
    assert video_file(folder, "v2").name == "v2.mp4"


KEYED = {
    "frame_rule": "lmms",
    "frames": 8,
    "fps": 2.0,
    "min_frames": 8,
    "max_frames": 64,
    "frame_rounding": "floor",
    "pixel_rule": "clip",
    "min_pixels": 784,
    "max_pixels": 7840,
    "frame_height": 56,
    "frame_width": 56,
    "video_prompt": "qwen",
    "subtitles": "qwen",
    "answer_parser": "lmms",
    "video_decoder": "pyav",
}
UNKEYED = {
    "video_dir",
    "video_questions",
    "subtitle_dir",
    "video_cache",
    "video_cache_gb",
    "decode_seconds",
}


def test_every_rule_identifies_a_result_of_video_mme_alone(folder):
    assert set(vars(VideoSettings())) == set(KEYED) | UNKEYED
    plain = identity(TASK, 4096, DataSettings(video_dir=str(folder)))
    assert set(plain) == {"source", "files", "readers"} and plain["source"] == "video_mme"
    assert [name.split()[0] for name in plain["readers"]] == ["decord", "pyav"]
    for name, value in KEYED.items():
        changed = identity(TASK, 4096, DataSettings(video_dir=str(folder), **{name: value}))
        assert changed[name] == value and changed != plain
        assert identity("json_kv", 4096, DataSettings(**{name: value})) == identity(
            "json_kv", 4096, DataSettings()
        )


def test_tasks_are_known():
    for task in VIDEO_MME:
        assert set(versions(task)) == {"task", "prompts", "scorer"}
        assert source_of(task, 4096, DataSettings()) == "video_mme"


def test_scores_by_either_parser():
    score, letter = module_of(TASK).process_results, module_of(TASK).letter_of
    doc = {"golds": '["D"]', "parser": "official"}
    assert score(doc, ["Best answer: D"]) == {"score": 0.0, "answered": 1.0}
    assert letter(doc, "Best answer: D") == "B"
    doc = doc | {"parser": "lmms"}
    assert score(doc, ["Best answer: D"]) == {"score": 1.0, "answered": 1.0}
    assert score(doc, ["none of these"]) == {"score": 0.0, "answered": 0.0}


def test_a_fixed_size_can_fill_the_length():
    fixed = {"pixel_rule": "fixed", "frame_height": 448, "frame_width": 448, "fps": None}
    made = VideoFrames(DataSettings(**fixed))
    assert [made.sampling(length).count for length in (8192, 32768, 131072)] == [64, 256, 1024]
    with pytest.raises(ValueError, match=r"data.fps=null fill the length"):
        VideoFrames(DataSettings(fps=None)).sampling(8192)


def test_a_video_far_shorter_than_its_class_is_refused(folder, words, tmp_path):
    video_clips.clip(folder / "long_one.mp4")
    (row,) = rows(folder, words, task="videomme_long")
    data = DataSettings(video_cache=str(tmp_path / "cache"), frames=4)
    with pytest.raises(VideoError, match=r"long_one.mp4 lasts 3 s, too short for its duration class"):
        VideoFrames(data).load(row)
    assert len(VideoFrames(data).load(row | {"dataset": TASK}).frames) == 4


def test_the_defaults_are_one_frame_a_second_of_qwen():
    made = VideoFrames(DataSettings())
    assert made.sampling(1).number(108_000, 30) == 768 and made.sampling(1).number(300, 30) == 10
    assert made.pixels().size(768, 720, 1280) == (224, 420)
