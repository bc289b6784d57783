"""The part of a session that scores prompts about videos, which lm-eval has no way to give a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from method.attention import SparsePrefill
from rr_bench.config.schema import RunSettings
from rr_bench.model.loading import LoadedModel
from rr_bench.model.memory import OutOfMemory
from rr_bench.model.recorder import RequestStats
from rr_bench.model.vision.families import family_of
from rr_bench.model.vision.inputs import Seen, VideoFacts, language_inputs
from rr_bench.model.vision.lm import SparseVLM
from rr_bench.run.prompt import Prompt
from rr_bench.tasks.prompts.card_questions import LETTERS
from rr_bench.tasks.sources import module_of
from rr_bench.tasks.video import NEW_TOKENS, VideoFrames
from rr_bench.video.frame_set import FrameSet


class VideoCells:
    """Prompts about videos, asked and graded.

    Args:
        loaded: a vision-language model and its tokenizer.
        prefill: what runs until a cell brings its own.
        settings: the run's settings.
        max_positions: of the model.

    Raises:
        ValueError: the model cannot be given a video.
    """

    def __init__(
        self, loaded: LoadedModel, prefill: SparsePrefill, settings: RunSettings, max_positions: int
    ) -> None:
        self.settings = settings
        self.lm = SparseVLM(
            loaded.model,
            loaded.tokenizer,
            prefill,
            max_positions=max_positions,
            rule=settings.model.positions,
        )
        factor = family_of(loaded.model.config.to_dict()).form.factor
        self.frames = VideoFrames(settings.data, factor)
        self._known: dict[str, tuple[VideoFacts, dict[str, Any]]] = {}

    def prompt(self, doc: Mapping[str, Any]) -> Prompt:
        """What prefill gets of a row."""
        video, seen = self._video(doc)
        prompt = self.lm.read(doc["prompt"], video)
        tokens = prompt.ids.shape[1] - 1
        return Prompt(tokens, language_inputs(self.lm.model, prompt, seen, tokens))

    def warm_up(self, doc: Mapping[str, Any], new: bool) -> None:
        """Prefill a row, so that kernels are compiled and threads awake; nothing is kept.

        Args:
            doc: the row.
            new: the method has not run at this length yet; if it has, there is nothing to do.

        A video that cannot be used, or memory that runs out, is left to the sample, which says so.
        """
        if not new:
            return
        try:
            video, seen = self._video(doc)
            self.lm.body(self.lm.read(doc["prompt"], video), seen, self.lm.prefill)
        except (OSError, ValueError, OutOfMemory):
            return

    def score(self, name: str, doc: Mapping[str, Any]) -> dict[str, Any]:
        """Ask about a row's video, grade, and collect what it cost: fields of a record."""
        stats, module = RequestStats(), module_of(name)
        video, seen = self._video(doc)
        found: dict[str, Any]
        if doc.get("spans"):
            spans = [tuple(span) for span in json.loads(doc["spans"])]
            prompt = self.lm.read(doc["prompt"], video)
            hits = self.lm.grade(prompt, seen, spans, stats)
            found = {"questions": len(hits), "output": "".join(str(int(hit)) for hit in hits)}
            graded = module.process_results(doc, hits)
        else:
            prompt = self.lm.read(doc["prompt"], video, NEW_TOKENS)
            answer = self.lm.answer(prompt, seen, NEW_TOKENS, stats, LETTERS)
            graded = module.process_results(doc, [answer.text])
            found = {"output": answer.text, "argmax_letter": answer.letter}
            letter = module.letter_of(doc, answer.text)
            found |= {"letter": letter, "answered": letter is not None}
        shown = self._known[doc["video"]][1]
        shown |= {"tokens": int(prompt.layout.visual.sum()), "largest_position": prompt.largest}
        return {
            **found,
            "video": shown,
            "score": float(graded["score"]),
            **stats.fields(),
        }

    def _video(self, doc: Mapping[str, Any]) -> tuple[VideoFacts, Seen]:
        """The row's video; its frames are read only if the tower has not seen them."""
        key = doc["video"]
        frames = None
        if key not in self._known:
            frames = self.frames.load(doc)
            size = frames.frames.shape[:3]
            seconds = tuple(frames.seconds.tolist())
            facts = VideoFacts(size, seconds, frames.sample_fps, frames.sha256)
            self._known[key] = facts, described(frames)

        def pixels() -> NDArray[np.uint8]:
            return (self.frames.load(doc) if frames is None else frames).frames

        facts = self._known[key][0]
        return facts, self.lm.seen(facts, pixels)


def described(frames: FrameSet) -> dict[str, Any]:
    """What a record says of the frames shown."""
    count, height, width = frames.frames.shape[:3]
    found = {"frames": count, "height": height, "width": width}
    names = ("total_frames", "fps", "sample_fps", "duration", "rotation", "decoder", "sha256")
    found |= {name: getattr(frames, name) for name in names}
    return found | ({"passed_over": list(frames.passed_over)} if frames.passed_over else {})
