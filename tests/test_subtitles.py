"""SRT files, and the subtitles that go beside frames."""

from __future__ import annotations

import pytest

from rr_bench.tasks.files.subtitles import Cue, read_srt, shown

FONT = '<font color="white" size=".72c">{}</font>'


@pytest.fixture
def cues() -> list[Cue]:
    return [
        Cue(0, 2500, (FONT.format("first"), FONT.format("line two"))),
        Cue(2500, 4000, (FONT.format("second"),)),
    ]


def at(rule: str, cues: list[Cue], *indices: int, total: int = 120) -> list[str]:
    seconds = [index / 30 for index in indices]
    return shown(rule, cues, indices=indices, seconds=seconds, fps=30.0, total=total)


def test_official_shows_the_cue_strictly_around_each_frame(cues):
    found = [at("official", cues, index) for index in (0, 74, 75, 76)]
    assert found == [[], ["first line two"], [], ["second"]]


def test_official_repeats_a_cue_for_every_frame_and_takes_the_first_of_two(cues):
    assert at("official", cues, 10, 20, 80) == ["first line two", "first line two", "second"]
    assert at("official", [*cues, Cue(0, 4000, ("third",))], 80) == ["second"]


def test_qwen_shows_every_cue_once_by_time_stamps(cues):
    assert at("qwen", cues, 10, 20, 80) == ["first line two", "second"]
    late = shown("qwen", cues, indices=[10], seconds=[3.0], fps=30.0, total=120)
    assert late == ["second"]  # of a variable rate the stamp decides, not the index
    assert at("qwen", cues, 0, 75) == []


def test_lmms_looks_at_its_own_frames_and_keeps_the_first_tagged_line(cues):
    assert at("lmms", cues, 0) == ["first", "second"]
    assert at("lmms", [Cue(0, 2500, ("untagged",)), *cues[1:]], 0) == ["second"]
    short = [Cue(1000, 1010, (FONT.format("between two of the 32 frames"),))]
    assert at("lmms", short, 30, total=3000) == []


def test_a_file_is_read_with_its_carriage_returns_and_byte_order_mark(tmp_path):
    path = tmp_path / "a.srt"
    text = "1\n00:00:00,000 --> 00:00:02,500\n{}\n{}\n\n2\n01:00:02,5 --> 01:00:04.000\nb\n"
    text = text.format(FONT.format("one"), FONT.format("two")).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = read_srt(path)
    assert (first.start, first.end, first.text) == (0, 2500, "one two")
    assert (second.start, second.end, second.text) == (3602500, 3604000, "b")


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.srt"
    for content in (b"", b"hello", b"1\n00:00:00,000 --> 00:00:02,500\n\xff\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.srt"):
            read_srt(path)
    with pytest.raises(ValueError, match="one of official"):
        shown("other", [], indices=[], seconds=[], fps=1.0, total=1)
