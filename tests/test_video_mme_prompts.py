"""The words behind a Video-MME video, letter by letter."""

from __future__ import annotations

import pytest

from rr_bench.tasks.prompts.video_mme import PROMPTS, video_prompt

OPTIONS = ["A. One.", "B. Two.", "C. Three.", "D. Four."]
ASKED = "Select the best answer to the following multiple-choice question based on the video"
FORM = "Respond with only the letter (A, B, C, or D) of the correct option."
LINES = "How many?\nA. One.\nB. Two.\nC. Three.\nD. Four."
HEAD = "This video's subtitles are listed below:"


def made(rule: str, subtitles: list[str] | None = None) -> str:
    return video_prompt(rule, "How many?", OPTIONS, subtitles)


PLAIN = {
    "official": f"{ASKED}. {FORM}\n{LINES}\nThe best answer is:",
    "lmms": f"{ASKED} and the subtitles. {FORM}\n{LINES}\n\n"
    "Answer with the option's letter from the given choices directly.",
    "lmms_qwen3": "Question: How many?\nOptions:\nA. One.\nB. Two.\nC. Three.\nD. Four.\n"
    "Answer with the option letter only.",
    "vlmeval": f"\nThese are the frames of a video. {ASKED}. {FORM}\nQuestion: {LINES}\nAnswer: ",
    "qwen": f"{ASKED}. {FORM}\nQuestion: {LINES}\nThe best answer is:",
}
WITH_SUBTITLES = {
    "official": f"{HEAD}\nHello.\nBye.\n{PLAIN['official']}",
    "lmms": f"{HEAD} \nHello.\nBye.\n{ASKED} and the subtitles. {FORM}\n{LINES}\nThe best answer is:",
    "vlmeval": f"\nThese are the frames of a video. {HEAD}\nHello.\nBye.\n{ASKED}. {FORM}\n"
    f"Question: {LINES}\nAnswer: ",
    "qwen": f"{HEAD}\nHello. Bye.\n{PLAIN['qwen']}",
}


@pytest.mark.parametrize("rule", PROMPTS)
def test_without_subtitles(rule):
    assert made(rule) == PLAIN[rule]


@pytest.mark.parametrize("rule", WITH_SUBTITLES)
def test_with_subtitles(rule):
    assert made(rule, ["Hello.", "Bye."]) == WITH_SUBTITLES[rule]


@pytest.mark.parametrize("rule", ["official", "vlmeval", "qwen"])
def test_a_video_without_subtitles_is_asked_as_without(rule):
    assert made(rule, []) == PLAIN[rule]


def test_lmms_says_that_there_are_none():
    assert made("lmms", []).startswith(f"{HEAD} \nNo subtitles available\n{ASKED}")


def test_what_cannot_be_asked_is_named():
    with pytest.raises(ValueError, match="no place for subtitles"):
        made("lmms_qwen3", ["Hello."])
    with pytest.raises(ValueError, match="one of official"):
        made("offical")
