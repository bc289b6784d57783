"""Video-MME's scores and their export, from stored answers; and intervals by cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rr_bench.report import headline, video_mme
from rr_bench.report.__main__ import main
from rr_bench.report.drawing import Album
from rr_bench.report.recovery import pooled
from rr_bench.report.render import to_text
from rr_bench.report.tables import summarise
from rr_bench.report.video_mme import score_frame, score_tables
from rr_bench.report.video_mme_figure import draw_video_mme
from rr_bench.report.video_mme_paper import published_scores
from rr_bench.store.cells import CellWriter
from rr_bench.store.records import SampleRecord
from tests.fabricate import FULL, RR, cells_of, open_cell, record, write_cell

LETTERS = "ABCD"


def answer(
    duration: str,
    video: int,
    number: int,
    score: float | None,
    *,
    answered: bool = True,
    **changes: Any,
) -> SampleRecord:
    """A question whose right letter is A; without a score it failed."""
    question = f"{duration}{video:03d}-{number}"
    labels = {
        "question_id": question,
        "video_id": f"{duration}{video:03d}",
        "duration": duration,
        "domain": "Knowledge" if video % 2 else "Life Record",
        "sub_category": "Geography" if video % 2 else "Food",
        "task_type": "OCR Problems" if number == 1 else "Counting Problem",
    }
    letter = ("A" if score else "B") if answered else None
    fields: dict[str, Any] = {
        "golds": ["A"],
        "labels": labels,
        "cluster": labels["video_id"],
        "output": "" if score is None else f"{letter or 'x'}.",
        "letter": letter,
        "argmax_letter": "A",
        "answered": answered,
    }
    if score is None:
        fields |= {"letter": None, "argmax_letter": None, "answered": None, "error": "no video"}
    return record(question, score, task=f"videomme_{duration}", **(fields | changes))


def write(out: Path, samples: list[SampleRecord], method: dict[str, Any] = FULL) -> CellWriter:
    cell = open_cell(out, method, task=samples[0].task)
    with cell:
        for sample in samples:
            cell.append(sample)
        cell.finish(len(samples))
    return cell


def row(out: Path, group: str) -> dict[str, Any]:
    frame = score_frame(cells_of(out))
    (found,) = frame[frame["group"] == group].to_dict("records")
    return found


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two videos: 4 right of 6, of which one is unparsable and one has no frames."""
    scores = [(1, 1.0), (1, 1.0), (1, 0.0), (2, 1.0), (2, 1.0)]
    samples = [answer("short", video, i, score) for i, (video, score) in enumerate(scores)]
    samples[2] = answer("short", 1, 2, 0.0, answered=False)
    write(tmp_path, [*samples, answer("short", 2, 9, None)])
    return tmp_path


def test_a_score_is_over_all_asked_and_the_official_one_over_the_answered(few):
    found = row(few, "short")
    counts = [found[name] for name in ("videos", "asked", "answered", "failed")]
    assert counts == [2, 6, 4, 1]
    assert found["score"] == pytest.approx(100 * 4 / 6)
    assert found["official"] == 100
    assert found["argmax"] == pytest.approx(100 * 5 / 6)  # the failed question has no letter


def test_groups_are_told_apart(few):
    assert row(few, "Knowledge")["score"] == pytest.approx(100 * 2 / 3)
    assert row(few, "Food")["asked"] == 3
    assert {row(few, name)["asked"] for name in ("OCR Problems", "Counting Problem")} == {1, 5}


def test_there_is_no_overall_score_of_incomplete_durations(few):
    found = row(few, "overall")
    assert np.isnan(found["score"]) and found["videos"] == 2


def test_the_overall_score_is_that_of_three_complete_durations(tmp_path, monkeypatch):
    monkeypatch.setattr(video_mme, "VIDEOS", 2)
    for duration, right in (("short", 6), ("medium", 3), ("long", 0)):
        scores = [1.0] * right + [0.0] * (6 - right)
        write(tmp_path, [answer(duration, i // 3, i % 3, score) for i, score in enumerate(scores)])
    assert row(tmp_path, "overall")["score"] == pytest.approx(50)
    assert [row(tmp_path, name)["score"] for name in ("short", "medium", "long")] == [100, 50, 0]


def test_an_interval_is_over_videos(tmp_path):
    # Three questions of a video are right or wrong together: as wide as that of 20 videos.
    write(tmp_path, [answer("short", i // 3, i % 3, float(i // 3 % 2)) for i in range(60)])
    found = row(tmp_path, "short")
    half = 1.96 * 100 * 0.5 / 20**0.5
    assert found["score_hi"] - found["score_lo"] == pytest.approx(2 * half, rel=0.12)


def test_recovery_draws_clusters_whole():
    pairs = [(float(i // 3 % 2), 1.0) for i in range(60)]
    clustered = pooled([[(a, b, str(i // 3)) for i, (a, b) in enumerate(pairs)]])
    alone = pooled([pairs])
    videos = pooled([[(float(i % 2), 1.0) for i in range(20)]])
    assert (clustered.n, clustered.sparse, clustered.value) == (alone.n, alone.sparse, alone.value)
    assert clustered.hi - clustered.lo > 1.5 * (alone.hi - alone.lo)
    assert (clustered.lo, clustered.hi) == (videos.lo, videos.hi)


def test_the_recovery_of_a_run_is_drawn_by_video(tmp_path):
    dense = [answer("short", i // 3, i % 3, 1.0) for i in range(60)]
    sparse = [answer("short", i // 3, i % 3, float(i // 3 % 2)) for i in range(60)]
    write(tmp_path, dense)
    write(tmp_path, sparse, RR)
    summary = summarise(cells_of(tmp_path))
    (found,) = summary.frame[~summary.frame["dense"]].to_dict("records")
    assert found["recovery"] == 50 and found["recovery_hi"] - found["recovery_lo"] > 35
    assert "Video-MME" in (text := to_text(summary)) and "answered" in text
    *_, scores, counts, groups = headline.score_tables(summary)
    names = "video_mme", "video_mme_durations", "video_mme_groups"
    assert (scores.name, counts.name, groups.name) == names
    assert scores.frame["method"].tolist() == ["full", "rr(tau=0.95)"] and "50.0 (" in scores.markdown()
    assert scores.frame["sparsity"].tolist() == [50, 50]


def test_the_best_sparse_method_is_marked_where_its_interval_lies_above_the_others(tmp_path):
    write(tmp_path, [answer("short", i, 0, 1.0) for i in range(30)])
    for name, right in (("a", 29), ("b", 12), ("c", 10)):
        samples = [answer("short", i, 0, float(i < right)) for i in range(30)]
        write(tmp_path, samples, {**RR, "name": name, "label": name})
    scores, *_ = score_tables(cells_of(tmp_path))
    assert scores.best == {(1, "short")} and scores.frame["method"].tolist() == ["full", "a", "b", "c"]
    assert list(scores.text()) == ["method", "short", "sparsity", "source"]


def test_published_scores_stand_beside_those_of_the_same_model(tmp_path):
    samples = [answer("short", i // 3, i % 3, float(i % 2)) for i in range(6)]
    cell = open_cell(tmp_path, task="videomme_short", model="qwen2-vl-7b-instruct")
    with cell:
        for sample in samples:
            cell.append(sample)
        cell.finish(len(samples))
    scores, *_ = score_tables(cells_of(tmp_path))
    shown = scores.text().set_index("method")
    assert shown.loc["minference(adaptive budget 0.3)"].tolist()[:4] == ["71.7", "62.3", "55.2", "63.1"]
    published = shown.loc["rr(tau=0.95, stride=8)"]
    assert published["short"] == "72.6" and published["sparsity"] == "34.7"
    assert "model not named" in published["source"] and "subtitles" not in scores.markdown()
    assert shown["source"].iloc[0] == "this store" and shown.index[0] == "full"
    album = Album(tmp_path / "figures")
    draw_video_mme(cells_of(tmp_path), album)
    assert list(album.pictures) == ["video_mme"]


def test_published_rows_are_those_of_the_papers():
    plain, spoken = (published_scores(("Qwen2-VL-7B-Instruct", told)) for told in (False, True))
    of = plain[plain["source"].str.startswith("XAttention")].set_index("method")
    assert of.loc["xattention", ["short", "medium", "long", "overall"]].tolist() == [
        71.9,
        62.6,
        55.7,
        63.3,
    ]
    of = spoken[spoken["source"].str.startswith("XAttention")].set_index("method")
    assert of.loc["full", ["short", "medium", "long", "overall"]].tolist() == [78.1, 69.4, 60.2, 69.2]
    # A mean of three equal thirds, to a rounding of each.
    whole = pd.concat([plain, spoken]).dropna(subset=["short"])
    means = whole[["short", "medium", "long"]].mean(axis=1)
    assert len(whole) == 12 and ((means - whole["overall"]).abs() < 0.11).all()
    assert published_scores(("probe", False)).empty


def test_other_stores_have_no_such_table(tmp_path):
    write_cell(tmp_path, FULL, [1.0, 0.5])
    assert score_tables(cells_of(tmp_path)) == []


def test_the_official_scorer_gets_one_object_a_video(few, tmp_path, monkeypatch, capsys):
    questions = tmp_path / "questions.jsonl"
    text = {"question_id": "short001-0", "question": "Which?", "options": ["A. a", "B. b"]}
    questions.write_text(json.dumps(text) + "\n")
    gone = [answer("medium", 7, number, None) for number in range(3)]
    write(few, gone)
    folder = tmp_path / "export"
    arguments = ["videomme-export", str(few), str(folder), "--questions", str(questions)]
    monkeypatch.setattr("sys.argv", ["report", *arguments])
    assert main() == 0
    (path,) = folder.glob("*.json")
    assert str(path) in capsys.readouterr().out
    videos = {video["video_id"]: video for video in json.loads(path.read_text())}
    assert list(videos) == ["short001", "short002", "medium007"]
    assert [bool(video.get("missing")) for video in videos.values()] == [False, False, True]
    first = videos["short001"]
    assert (first["duration"], first["domain"], first["sub_category"]) == (
        "short",
        "Knowledge",
        "Geography",
    )
    assert first["questions"][0] == {
        "question_id": "short001-0",
        "task_type": "Counting Problem",
        "question": "Which?",
        "options": ["A. a", "B. b"],
        "answer": "A",
        "response": "A.",
    }


def test_a_store_without_answers_cannot_be_exported(tmp_path, monkeypatch, capsys):
    write_cell(tmp_path, FULL, [1.0])
    monkeypatch.setattr("sys.argv", ["report", "videomme-export", str(tmp_path), str(tmp_path / "x")])
    assert main() == 1
    assert "no answers to Video-MME" in capsys.readouterr().err
