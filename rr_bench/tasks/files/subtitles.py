"""Subtitles: SRT files, and which of their cues a model is shown beside the frames it gets.

``official`` is Video-MME's own rule (look4u-ok/video-slicer aff7000; also VLMEvalKit's), ``qwen``
QwenLM's, ``lmms`` lmms-eval's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RULES = ("official", "qwen", "lmms")
LMMS_FRAMES = 32
"""Frames whose subtitles lmms-eval shows, whatever frames the model gets."""

_CUE = re.compile(r"\s*(\S+)\s*-->\s*(\S+)")
_TIME = re.compile(r"(\d+):(\d+):(\d+)[,.](\d{1,3})")
_TAG = re.compile(r"<[^<>]*>")
_TAGGED = re.compile(r"<font[^<>]*>(.*?)</font>")


@dataclass(frozen=True)
class Cue:
    """One entry of a subtitle file.

    Attributes:
        start: in milliseconds.
        end: in milliseconds.
        lines: as they stand in the file, tags included.
    """

    start: int
    end: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """Without tags, on one line."""
        return " ".join(_TAG.sub("", line).strip() for line in self.lines).strip()

    @property
    def first_tagged(self) -> str:
        """What the first ``font`` tag of the cue holds; empty without one."""
        found = _TAGGED.search("\n".join(self.lines))
        return found.group(1) if found else ""


def read_srt(path: Path) -> list[Cue]:
    """The cues of a file, in its order.

    Raises:
        ValueError: it is no UTF-8, or holds no cue; the file is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: subtitles must be UTF-8 ({error})") from error
    cues = [cue for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")) if (cue := _cue(block))]
    if not cues:
        raise ValueError(f"{path}: no subtitles in SRT form")
    return cues


def _cue(block: str) -> Cue | None:
    """The cue of a block: its number, its times, its lines; None where there are no times."""
    lines = block.strip("\n").split("\n")
    for place, line in enumerate(lines[:2]):
        if found := _CUE.match(line):
            times = [_TIME.fullmatch(part) for part in found.groups()]
            if times[0] and times[1]:
                return Cue(_milliseconds(times[0]), _milliseconds(times[1]), tuple(lines[place + 1 :]))
    return None


def _milliseconds(found: re.Match[str]) -> int:
    hours, minutes, seconds = (int(part) for part in found.groups()[:3])
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + int(found.group(4).ljust(3, "0"))


def shown(
    rule: str,
    cues: Sequence[Cue],
    *,
    indices: Sequence[int],
    seconds: Sequence[float],
    fps: float,
    total: int,
) -> list[str]:
    """The entries that go into a prompt.

    Args:
        rule: one of :data:`RULES`. ``official``: for each frame the first cue around its time, repeated
            as often as frames fall into it. ``qwen``: every cue around some frame's time, once.
            ``lmms``: the cues of 32 evenly spaced frames, once, the first tagged line of each.
        cues: of the video.
        indices: frames the model gets.
        seconds: their time stamps.
        fps: average frames per second of the video.
        total: frames of the video.

    Raises:
        ValueError: there is no such rule.
    """
    if rule == "official":
        times = [round(1000 * int(index) / fps) for index in indices]
        around = (next((cue for cue in cues if cue.start < t < cue.end), None) for t in times)
        return [cue.text for cue in around if cue is not None]
    if rule == "qwen":
        stamps = [1000 * float(second) for second in seconds]
        return [cue.text for cue in cues if any(cue.start < t < cue.end for t in stamps)]
    if rule != "lmms":
        raise ValueError(f"`data.subtitles` must be none or one of {', '.join(RULES)}, got {rule!r}")
    step = (total - 1) / (LMMS_FRAMES - 1)
    frames = [int(step * place) for place in range(LMMS_FRAMES - 1)] + [total - 1]
    spoken = [
        cue.first_tagged
        for cue in cues
        if any(int(cue.start / 1000 * fps) <= frame < int(cue.end / 1000 * fps) for frame in frames)
    ]
    return [text for text in spoken if text]
