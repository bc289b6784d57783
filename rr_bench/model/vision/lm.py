"""A vision-language model with a sparse prefill of its language layers.

The vision tower runs first, by itself, and is not touched by any method: what it made of a video is
kept for the next method on the same clip. The language layers then prefill every token of the prompt
but the last under the method; the last one and all new ones see dense attention. Every pass is given
its positions: what transformers remembers of a video's positions is not used.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from method.attention import SparsePrefill
from rr_bench.model.compiles import compiles
from rr_bench.model.decoding import check_finite, greedy_config
from rr_bench.model.hook import sparse_prefill
from rr_bench.model.memory import memory_guard
from rr_bench.model.recorder import Recorder, RequestStats
from rr_bench.model.vision.inputs import (
    Seen,
    VideoFacts,
    VideoPrompt,
    language_inputs,
    look,
    read_prompt,
)

KEPT_BYTES = 2**31
"""Of what the tower saw, the latest clips."""


@dataclass(frozen=True)
class Answer:
    """What the model says to a question.

    Attributes:
        text: the greedy answer.
        letter: of the given letters the one with the largest logit at the answer's first token.
    """

    text: str
    letter: str | None


class SparseVLM:
    """A ready vision-language model behind two questions: which letters, and what text.

    Args:
        model: Qwen2-VL, Qwen2.5-VL or Qwen3-VL in evaluation mode, on its device. Its generation config
            is replaced by a greedy one.
        tokenizer: its tokenizer.
        prefill: method, keep policy and back end; may be replaced between prompts.
        max_positions: largest number of positions a prompt and its answer may take.
        rule: of the positions, see :mod:`rr_bench.model.vision.positions`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prefill: SparsePrefill,
        *,
        max_positions: int,
        rule: str = "original",
    ) -> None:
        model.generation_config = greedy_config(model.generation_config)
        self.model, self.tokenizer, self.prefill = model, tokenizer, prefill
        self.max_positions, self.rule = max_positions, rule
        self.decoding = "own loop (explicit positions)"
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def read(self, prompt: str, video: VideoFacts, room: int = 0) -> VideoPrompt:
        """Tokens and positions of a prompt.

        Args:
            prompt: the text.
            video: what is known of its frames.
            room: tokens of an answer.

        Raises:
            ValueError: the largest position is beyond the model.
        """
        made = read_prompt(self.model, self.tokenizer, prompt, video, self.rule)
        if made.largest + 1 + room > self.max_positions:
            raise ValueError(
                f"the prompt reaches position {made.largest} and may get {room} more, but the model "
                f"has {self.max_positions}: take fewer frames, or set model.allow_extrapolation=true"
            )
        return made

    def seen(self, video: VideoFacts, frames: Callable[[], NDArray[np.uint8]]) -> Seen:
        """What the tower makes of a video; the latest ones are kept.

        Args:
            video: what is known of it.
            frames: gives its frames, uint8 ``[frames, H, W, 3]``, if they are needed.
        """
        if video.sha256 in self._seen:
            self._seen.move_to_end(video.sha256)
            return self._seen[video.sha256]
        with memory_guard(math.prod(video.size), self.device, self._seen.clear):
            found = look(self.model, frames())
        self._seen[video.sha256] = found
        while len(self._seen) > 1 and sum(one.bytes for one in self._seen.values()) > KEPT_BYTES:
            self._seen.popitem(last=False)
        return found

    @torch.no_grad()
    def body(self, prompt: VideoPrompt, seen: Seen, prefill: SparsePrefill) -> Recorder:
        """Run the language layers once over a prompt but its last token; what the hook saw."""
        inputs = language_inputs(self.model, prompt, seen, prompt.ids.shape[1] - 1)
        with self._guard(prompt), sparse_prefill(self.model, prefill) as recorder:
            self.model.get_decoder()(**inputs, use_cache=False)
            self._now()
        return recorder

    @torch.no_grad()
    def grade(
        self, prompt: VideoPrompt, seen: Seen, answers: Sequence[tuple[int, int]], stats: RequestStats
    ) -> list[bool]:
        """Whether each answer inside a prompt is what the model would say, given all before it.

        Args:
            prompt: with its answers.
            seen: its video.
            answers: character spans in the prompt's text.
            stats: gets time and densities.
        """
        tokens = [answer_tokens(prompt, span) for span in answers]
        last = max(end for _, end in tokens)
        inputs = language_inputs(self.model, prompt, seen, last - 1)
        before = list(chain.from_iterable(range(start - 1, end - 1) for start, end in tokens))
        with (
            self._guard(prompt),
            sparse_prefill(self.model, self.prefill) as recorder,
            compiles() as compiled,
        ):
            start = self._now()
            hidden = self.model.get_decoder()(**inputs, use_cache=False).last_hidden_state
            logits = self.model.lm_head(hidden[0, before])
            stats.add_pass(recorder, self._now() - start)
        stats.input_tokens, stats.compiled = last, compiled.count > 0
        check_finite(bool(torch.isfinite(logits).all()))
        wanted = prompt.ids[0, torch.tensor(before, device=self.device) + 1]
        hits = iter((logits.argmax(-1) == wanted).tolist())
        return [all([next(hits) for _ in range(end - first)]) for first, end in tokens]

    @torch.no_grad()
    def answer(
        self,
        prompt: VideoPrompt,
        seen: Seen,
        new_tokens: int,
        stats: RequestStats,
        letters: str = "",
    ) -> Answer:
        """The greedy answer to a prompt.

        Args:
            prompt: with room for the answer.
            seen: its video.
            new_tokens: most tokens of the answer.
            stats: gets times and densities.
            letters: options of which the likeliest is noted.

        Raises:
            NotFinite: the model computed NaN or infinity.
        """
        decoder, tokens = self.model.get_decoder(), prompt.ids.shape[1]
        cache = DynamicCache(config=self.model.config)
        with self._guard(prompt), sparse_prefill(self.model, self.prefill) as recorder:
            start = self._now()
            with compiles() as compiled:
                inputs = language_inputs(self.model, prompt, seen, tokens - 1)
                decoder(**inputs, past_key_values=cache, use_cache=True)
                prefilled = self._now()
            stats.input_tokens, stats.compiled = tokens, compiled.count > 0
            answer, letter = self._decode(prompt, cache, new_tokens, letters)
            stats.decode_s += self._now() - prefilled
        stats.add_pass(recorder, prefilled - start)
        text = self.tokenizer.decode(answer, skip_special_tokens=True)
        return Answer(str(text), letter)

    def _decode(
        self, prompt: VideoPrompt, cache: DynamicCache, new_tokens: int, letters: str
    ) -> tuple[list[int], str | None]:
        """New tokens, each with its own positions, and the likeliest letter in the first's place."""
        decoder, stop = self.model.get_decoder(), self.stop_ids()
        embed = self.model.get_input_embeddings()
        penalty = float(self.model.generation_config.repetition_penalty or 1.0)
        token, position = prompt.ids[:, -1:], prompt.positions[..., -1:]
        text = prompt.ids[0]
        answer: list[int] = []
        letter = None
        for number in range(new_tokens):
            hidden = decoder(
                inputs_embeds=embed(token),
                position_ids=position + number,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits = self.model.lm_head(hidden[0, -1]).float()
            check_finite(bool(torch.isfinite(logits).all()))
            if number == 0 and letters:
                letter = letters[int(logits[self._letter_ids(letters)].argmax())]
            best = int(penalised(logits, text, penalty).argmax())
            answer.append(best)
            if best in stop:
                break
            token = torch.tensor([[best]], device=self.device)
            text = torch.cat([text, token[0]])
        return answer, letter

    def _letter_ids(self, letters: str) -> Tensor:
        """Tokens of the letters as an answer begins: without a space before them."""
        found = [self.tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in letters]
        if any(len(ids) != 1 for ids in found):
            raise ValueError(f"the letters {letters} are no single tokens of this tokenizer")
        return torch.tensor([ids[0] for ids in found], device=self.device)

    def stop_ids(self) -> set[int]:
        """Ids that end an answer."""
        own = self.model.generation_config.eos_token_id
        own = self.tokenizer.eos_token_id if own is None else own
        return set(own if isinstance(own, list) else [] if own is None else [own])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _guard(self, prompt: VideoPrompt) -> AbstractContextManager[None]:
        return memory_guard(prompt.ids.shape[1], self.device, self._seen.clear)


def penalised(logits: Tensor, text: Tensor, penalty: float) -> Tensor:
    """Logits after transformers' repetition penalty for all tokens so far."""
    if penalty == 1.0:
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[text] = True
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def answer_tokens(prompt: VideoPrompt, span: tuple[int, int]) -> tuple[int, int]:
    """First and end token of a stretch of the prompt's text.

    Raises:
        ValueError: no token lies in it.
    """
    start, end = span
    inside = [
        number
        for number, (first, last) in enumerate(prompt.layout.spans)
        if first >= 0 and last > start and first < end
    ]
    if not inside:
        raise ValueError(f"no token stands between the characters {start} and {end} of the prompt")
    return inside[0], inside[-1] + 1
