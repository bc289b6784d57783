"""Greedy decoding that does not wait for the host: one step, captured as a CUDA graph and replayed.

``generate`` asks Python for every kernel of every token. Here the prompt is prefilled straight into
buffers with room for the answer, and all that a step reads and writes lies at fixed addresses: the
token, its position, the tokens so far, keys and values. So the step is captured once and serves every
prompt that fits; the host looks at the tokens a few steps at a time. A step computes what
``generate`` does: dense attention to every token so far, float32 logits, the repetition penalty, the
first best token.

The buffers may have several rows, each with a prompt of its own that was prefilled by itself. A step
then reads a token of each. It is as wide as there are rows, whether they are in use or not, so that the
kernels, and with them the rounding of a row's numbers, are the same whatever stands in the others.

Not every model can be decoded so: :mod:`rr_bench.model.choice` says which cannot and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from method.ops.static_decode.torch import static_decode_torch
from rr_bench.model.buffers import Buffers, row_bytes
from rr_bench.model.decoding import Ask, check_finite
from rr_bench.model.hook import check_call, replaced_attention
from rr_bench.model.memory import OutOfMemory, free_memory

BUCKET = 4096
"""Room for tokens is a multiple of this."""

STEPS = 4
"""Tokens between two looks of the host; what was decoded beyond a stop is dropped."""

WARM_UPS = 2
TRY_OUT = (24, 17)
"""Prompt lengths of the try-out: what the step is captured with, and replayed with."""

ROUNDING = 0.05
"""Largest difference of a try-out's logits, as a share of the largest logit."""


class StepDecoder:
    """Greedy decoding of a model, one step at a time over :class:`~rr_bench.model.buffers.Buffers`.

    Args:
        model: on one device, in evaluation mode; its generation config has the repetition penalty.
        capture: capture the step as a CUDA graph; without, it runs from Python as it stands.
        rows: prompts that are decoded together.
    """

    def __init__(self, model: PreTrainedModel, *, capture: bool, rows: int = 1) -> None:
        self.model, self.capture, self.rows = model, capture, rows
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        self._buffers: Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def reserve(self, tokens: int) -> None:
        """Have room for texts of up to ``tokens`` in every row; what the rows held is lost.

        Raises:
            OutOfMemory: several rows do not fit in the memory that is free.
        """
        if self._buffers is not None and self._buffers.capacity >= tokens:
            return
        # The old buffers go before the new ones come: there may be no room for both.
        self.release()
        text = self.model.config.get_text_config(decoder=True)
        capacity = -(-tokens // BUCKET) * BUCKET
        self._check_room(capacity * row_bytes(text, self.model.dtype))
        self._buffers = Buffers(
            self.rows, capacity, text.num_hidden_layers, text.vocab_size, self.model.device
        )

    def fill(self, row: int) -> Cache:
        """The cache, empty, to be prefilled with a row's prompt but its last token."""
        return self._reserved().fill(row)

    def release(self) -> None:
        """Let go of all memory; the next :meth:`reserve` makes new buffers."""
        self._graph = self._buffers = None

    @torch.no_grad()
    def decode(self, asks: Sequence[Ask]) -> list[list[int]]:
        """The greedy answers to prompts whose tokens but the last are in the first rows' caches.

        Raises:
            NotFinite: the model computed NaN or infinity.
        """
        buffers, prompts = self._reserved(), [ask.ids for ask in asks]
        if self.capture and self._graph is None:
            self._graph = self._captured(prompts)
        buffers.start(prompts)
        answers: list[list[int]] = [[] for _ in asks]
        running = [row for row, ask in enumerate(asks) if ask.new_tokens]
        done = 0
        with nullcontext() if self._graph else self._attention():
            while running:
                steps = min(STEPS, max(asks[row].new_tokens for row in running) - done)
                for _ in range(steps):
                    self._graph.replay() if self._graph else self._step()
                found = buffers.ids[done : done + steps].T.tolist()
                for row in [row for row in running if asks[row].extend(answers[row], found[row])]:
                    running.remove(row)
                    buffers.park(row)
                done += steps
        ends = [buffers.finite[: len(answer), row].all() for row, answer in enumerate(answers)]
        check_finite(bool(torch.stack(ends).all()))
        return answers

    def _reserved(self) -> Buffers:
        if self._buffers is None:
            raise ValueError("a decoder needs room for its prompts: `reserve` it first")
        return self._buffers

    def _check_room(self, each: int) -> None:
        """Refuse rows of ``each`` bytes that do not fit; a single one is left to the allocator."""
        free = free_memory(self.model.device)
        if self.rows > 1 and self.rows * each > free:
            fit = int(free // each)
            remedy = f"decode_together={fit} fits" if fit else "not even one fits"
            raise OutOfMemory(
                f"decode_together={self.rows} needs {self.rows} caches of {each / 1e9:.2f} GB and "
                f"{free / 1e9:.1f} GB are free: {remedy}"
            )

    def _step(self) -> None:
        """Read a token of each row and write the next, wholly on the device."""
        buffers = self._reserved()
        output = self.model(
            input_ids=buffers.token,
            position_ids=buffers.position[:, None],
            past_key_values=buffers.cache,
            use_cache=True,
        )
        buffers.logits.copy_(output.logits[:, -1])
        scores = buffers.logits
        if self.penalty != 1.0:
            lowered = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
            scores = torch.where(buffers.seen, lowered, scores)
        best = scores.argmax(-1)
        buffers.ids.index_copy_(0, buffers.step, best[None])
        buffers.finite.index_copy_(0, buffers.step, torch.isfinite(scores).all(-1)[None])
        buffers.seen.scatter_(1, best[:, None], True)
        buffers.token.copy_(best[:, None])
        buffers.position.add_(1)
        buffers.length.add_(1)
        buffers.step.add_(1)

    def _captured(self, prompts: list[Tensor]) -> torch.cuda.CUDAGraph:
        """The step as a graph; the prompts are there to run it with."""
        buffers, here = self._reserved(), torch.cuda.current_stream()
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(here)
        with self._attention():
            # Compiles kernels and makes buffers and workspaces, none of which may happen in a capture.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    buffers.start(prompts)
                    self._step()
            here.wait_stream(aside)
            with torch.cuda.graph(graph):
                self._step()
        return graph

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Every layer of the model sees the buffers up to the present lengths."""
        length = self._reserved().length
        if self.model.device.type == "cuda":
            from method.ops.static_decode.triton import static_decode_triton as attention
        else:
            attention = static_decode_torch

        def attend(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            scaling: float | None = None,
            dropout: float = 0.0,
            **kwargs: Any,
        ) -> tuple[Tensor, None]:
            check_call(module, int(module.layer_idx), dropout, kwargs)  # type: ignore[arg-type]
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            output = attention(query, key, value, length, scale=scale)
            return output.transpose(1, 2).contiguous(), None

        with replaced_attention(self.model, attend):
            yield

    @torch.no_grad()
    def try_out(self) -> str | None:
        """Decode a token of two short prompts in each row; what is wrong, or ``None``."""
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        ids = torch.randint(vocabulary, (1, max(TRY_OUT)), generator=torch.Generator().manual_seed(0))
        prompts = [ids[:, :tokens].to(self.model.device) for tokens in TRY_OUT]
        expected = [self.model(input_ids=prompt, use_cache=False).logits[0, -1] for prompt in prompts]
        for shift in range(len(TRY_OUT)):
            order = [(row + shift) % len(TRY_OUT) for row in range(self.rows)]
            self.reserve(max(TRY_OUT) + STEPS)
            for row, index in enumerate(order):
                self.model.base_model(
                    input_ids=prompts[index][:, :-1], past_key_values=self.fill(row), use_cache=True
                )
            self.decode([Ask(prompts[index], 1) for index in order])
            wanted = torch.stack([expected[index].float() for index in order])
            difference = (self._reserved().logits - wanted).abs().max() / wanted.abs().max()
            if not difference <= ROUNDING:
                return f"a step over buffers differs from a forward pass by {float(difference):.2g}"
        return None
