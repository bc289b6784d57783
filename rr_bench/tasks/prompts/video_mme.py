"""Video-MME's prompts, as published evaluations word them. One user turn: the video, then this text.

``official`` is the data set's own, ``lmms`` and ``lmms_qwen3`` are lmms-eval's (75571cf), ``vlmeval``
VLMEvalKit's (e8e78ef), which XAttention was evaluated with, ``qwen`` QwenLM's (9658872).
"""

from __future__ import annotations

from collections.abc import Sequence

PROMPTS = ("official", "lmms", "lmms_qwen3", "vlmeval", "qwen")

_TASK = "Select the best answer to the following multiple-choice question based on the video{more}."
_FORM = "Respond with only the letter (A, B, C, or D) of the correct option."
_SUBTITLES = "This video's subtitles are listed below:"
_LEAD = "The best answer is:"
NO_SUBTITLES = "No subtitles available"


def video_prompt(
    rule: str, question: str, options: Sequence[str], subtitles: Sequence[str] | None = None
) -> str:
    """The text behind a video.

    Args:
        rule: one of :data:`PROMPTS`.
        question: as annotated.
        options: four lines, each with its letter.
        subtitles: entries of :func:`rr_bench.tasks.files.subtitles.shown`; None asks without them, an
            empty list says that the video has none where the rule has words for that.

    Raises:
        ValueError: there is no such rule, or it has no place for subtitles.
    """
    lines = "\n".join(options)
    task = f"{_TASK.format(more='')} {_FORM}"
    if rule == "official":
        return f"{_block(subtitles)}{task}\n{question}\n{lines}\n{_LEAD}"
    if rule == "qwen":
        text = " ".join(subtitles or ())
        block = f"{_SUBTITLES}\n{text}\n" if text else ""
        return f"{block}{task}\nQuestion: {question}\n{lines}\n{_LEAD}"
    if rule == "vlmeval":
        block = _block(subtitles)
        return (
            f"\nThese are the frames of a video. {block}{task}\nQuestion: {question}\n{lines}\nAnswer: "
        )
    if rule == "lmms":
        return _lmms(question, lines, subtitles)
    if rule != "lmms_qwen3":
        raise ValueError(f"`data.video_prompt` must be one of {', '.join(PROMPTS)}, got {rule!r}")
    if subtitles is not None:
        raise ValueError(
            "`data.video_prompt`=lmms_qwen3 has no place for subtitles: data.subtitles=none"
        )
    return f"Question: {question}\nOptions:\n{lines}\nAnswer with the option letter only."


def _block(subtitles: Sequence[str] | None) -> str:
    """Subtitles with their heading; nothing without any."""
    return "\n".join([_SUBTITLES, *subtitles, ""]) if subtitles else ""


def _lmms(question: str, lines: str, subtitles: Sequence[str] | None) -> str:
    """lmms-eval's words, which speak of subtitles even where none are given."""
    asked = f"{_TASK.format(more=' and the subtitles')} {_FORM}\n{question}\n{lines}"
    if subtitles is None:
        return f"{asked}\n\nAnswer with the option's letter from the given choices directly."
    text = "\n".join(subtitles) or NO_SUBTITLES
    return f"{_SUBTITLES} \n{text}\n{asked}\n{_LEAD}"
