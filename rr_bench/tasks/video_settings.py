"""The settings ``data.*`` of tasks about a user's videos: Video-MME.

The defaults are those of the published evaluations of sparse prefill: one frame a second, at most 768,
sized as by qwen-vl-utils 0.0.8; words, subtitles and parser are the benchmark's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from rr_bench.tasks.declare import setting
from rr_bench.tasks.files.subtitles import RULES as SUBTITLES
from rr_bench.tasks.metrics.choices import PARSERS
from rr_bench.tasks.prompts.video_mme import PROMPTS
from rr_bench.video.decode import DECODERS, SECONDS
from rr_bench.video.frame_set import CACHE_BYTES
from rr_bench.video.pixels import RULES as PIXELS
from rr_bench.video.sampling import ROUNDINGS
from rr_bench.video.sampling import RULES as FRAMES

PREFIX = "videomme_"
"""Of the tasks that these settings are for."""


def _videos(task: str, source: str) -> bool:
    return task.startswith(PREFIX)


@dataclass
class VideoSettings:
    """Which videos, which of their frames at what size, and what is asked about them."""

    video_dir: str | None = setting(
        None,
        "folder of Video-MME's videos, or of folders of their frames, each with video.json: "
        '{"fps": <images per second>}',
        path=True,
    )
    video_questions: str | None = setting(
        None, "its questions, Parquet or JSONL; null: the one such file in video_dir", path=True
    )
    subtitle_dir: str | None = setting(
        None, "folder of <video>.srt; null: video_dir, or subtitle/ in it", path=True
    )
    frame_rule: str = setting(
        "qwen", "which frames of a video are shown", choices=tuple(FRAMES), key=_videos
    )
    frames: int | None = setting(None, "how many frames; null: by fps", key=_videos)
    fps: float | None = setting(
        1.0,
        "frames per second of video, if frames is null; null as well: as many frames of a fixed size "
        "as fill the length",
        key=_videos,
    )
    min_frames: int | None = setting(None, "fewest frames by fps; null: 4", key=_videos)
    max_frames: int | None = setting(None, "most frames by fps; null: 768", key=_videos)
    frame_rounding: str = setting(
        "round",
        "to an even number of frames: round (qwen-vl-utils 0.0.8) or floor (later)",
        choices=ROUNDINGS,
        key=_videos,
    )
    pixel_rule: str = setting(
        "qwen_0.0.8", "how large frames become", choices=tuple(PIXELS), key=_videos
    )
    min_pixels: int | None = setting(
        None, "of a frame, of the clip under pixel_rule=clip; null: the rule's own", key=_videos
    )
    max_pixels: int | None = setting(None, "the same", key=_videos)
    frame_height: int | None = setting(None, "of frames under pixel_rule=fixed", key=_videos)
    frame_width: int | None = setting(None, "the same", key=_videos)
    video_prompt: str = setting(
        "official", "words of the question", choices=tuple(PROMPTS), key=_videos
    )
    subtitles: str = setting(
        "none", "which subtitles are shown, if any", choices=("none", *SUBTITLES), key=_videos
    )
    answer_parser: str = setting(
        "official", "how a letter is read from an answer", choices=tuple(PARSERS), key=_videos
    )
    video_decoder: str = setting(
        "auto",
        "auto (decord, and PyAV for what it cannot read), decord or pyav",
        choices=tuple(DECODERS),
        key=_videos,
    )
    video_cache: str | None = setting(
        None, "folder of decoded frames; null: frames/ in RR_BENCH_CACHE or ~/.cache/rr_bench"
    )
    video_cache_gb: float = setting(CACHE_BYTES / 2**30, "size of that folder at most")
    decode_seconds: float = setting(
        float(SECONDS), "a decoder may take for one video before it is killed"
    )
