"""Greedy decoding that does not wait for the host: one step, captured as a CUDA graph and replayed.

``generate`` asks Python for every kernel of every token. Here the prompt is prefilled straight into
buffers with room for the answer, and all that a step reads and writes lies at fixed addresses: the
token, its position, the text so far, keys and values. So the step is captured once and serves every
prompt that fits; the host looks at the tokens a few steps at a time. A step computes what
``generate`` does: dense attention to every token so far, float32 logits, the repetition penalty, the
first best token.

Not every model can be decoded so: :func:`choose_decoder` says which cannot and why, and tries a step
out against a whole forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from method.ops.static_decode.torch import static_decode_torch
from rr_bench.model.buffers import Buffers
from rr_bench.model.decoding import check_finite
from rr_bench.model.hook import HookError, attention_layers, check_call, replaced_attention
from rr_bench.model.rotary import adapts
from rr_bench.model.spread import devices
from rr_bench.plan.model_facts import CheckpointError

BUCKET = 4096
"""Room for tokens is a multiple of this."""

STEPS = 4
"""Tokens between two looks of the host; what was decoded beyond a stop is dropped."""

WARM_UPS = 2
TRY_OUT = (24, 17)
"""Prompt lengths of the try-out: the step is captured with the first and replayed with the second."""

ROUNDING = 0.05
"""Largest difference of a try-out's logits, as a share of the largest logit."""


class StepDecoder:
    """Greedy decoding of a model, one step at a time over :class:`~rr_bench.model.buffers.Buffers`.

    Args:
        model: on one device, in evaluation mode; its generation config has the repetition penalty.
        capture: capture the step as a CUDA graph; without, it runs from Python as it stands.
    """

    def __init__(self, model: PreTrainedModel, *, capture: bool) -> None:
        self.model, self.capture = model, capture
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        self._buffers: Buffers | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    def cache(self, tokens: int) -> Cache:
        """An empty cache with room for ``tokens``, to be prefilled with a prompt but its last token."""
        if self._buffers is None or self._buffers.capacity < tokens:
            # The old buffers go before the new ones come: there may be no room for both.
            self.release()
            text = self.model.config.get_text_config(decoder=True)
            capacity = -(-tokens // BUCKET) * BUCKET
            self._buffers = Buffers(
                capacity, text.num_hidden_layers, text.vocab_size, self.model.device
            )
        for layer in self._buffers.layers:
            layer.filled = 0
        return self._buffers.cache

    def release(self) -> None:
        """Let go of all memory; the next :meth:`cache` makes new buffers."""
        self._graph = self._buffers = None

    @torch.no_grad()
    def decode(
        self,
        prompt: Tensor,
        new_tokens: int,
        stop_ids: Collection[int] = (),
        ended: Callable[[list[int]], bool] | None = None,
    ) -> list[int]:
        """The greedy answer to a prompt whose tokens but the last are in :meth:`cache`.

        Args:
            prompt: int64 ``[1, L]``.
            new_tokens: most tokens of the answer; the cache has room for them.
            stop_ids: tokens that end it, and belong to it.
            ended: whether an answer so far is complete.

        Raises:
            NotFinite: the model computed NaN or infinity.
        """
        buffers, first = self._opened(), prompt.shape[1]
        if self.capture and self._graph is None:
            self._graph = self._captured(prompt)
        buffers.start(prompt)
        answer: list[int] = []
        done = False
        with nullcontext() if self._graph else self._attention():
            while not done and len(answer) < new_tokens:
                at = first + len(answer)
                steps = min(STEPS, new_tokens - len(answer))
                for _ in range(steps):
                    self._graph.replay() if self._graph else self._step()
                for token in buffers.ids[at : at + steps].tolist():
                    answer.append(token)
                    done = token in stop_ids or (ended is not None and ended(answer))
                    if done:
                        break
        check_finite(bool(buffers.finite[first : first + len(answer)].all()))
        return answer

    def _opened(self) -> Buffers:
        if self._buffers is None:
            raise ValueError("decode needs a prompt in the decoder's own cache: ask for `cache` first")
        return self._buffers

    def _step(self) -> None:
        """Read one token and write the next, wholly on the device."""
        buffers = self._opened()
        output = self.model(
            input_ids=buffers.token,
            position_ids=buffers.position[None],
            past_key_values=buffers.cache,
            use_cache=True,
        )
        buffers.logits.copy_(output.logits[0, -1])
        scores = buffers.logits
        if self.penalty != 1.0:
            lowered = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
            scores = torch.where(buffers.seen, lowered, scores)
        best = scores.argmax(-1, keepdim=True)
        buffers.ids.index_copy_(0, buffers.length, best)
        buffers.finite.index_copy_(0, buffers.length, torch.isfinite(scores).all()[None])
        buffers.seen.index_fill_(0, best, True)
        buffers.token.copy_(best[None])
        buffers.position.add_(1)
        buffers.length.add_(1)

    def _captured(self, prompt: Tensor) -> torch.cuda.CUDAGraph:
        """The step as a graph; the prompt is there to run it with."""
        buffers, here = self._opened(), torch.cuda.current_stream()
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(here)
        with self._attention():
            # Compiles kernels and makes buffers and workspaces, none of which may happen in a capture.
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    buffers.start(prompt)
                    self._step()
            here.wait_stream(aside)
            with torch.cuda.graph(graph):
                self._step()
        return graph

    @contextmanager
    def _attention(self) -> Iterator[None]:
        """Every layer of the model sees the buffers up to the present length."""
        length = self._opened().length
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
        """Decode a token of two short prompts; what is wrong with the result, or ``None``."""
        first, *_ = TRY_OUT
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        ids = torch.randint(vocabulary, (1, first), generator=torch.Generator().manual_seed(0))
        for tokens in TRY_OUT:
            prompt = ids[:, :tokens].to(self.model.device)
            self.model.base_model(
                input_ids=prompt[:, :-1], past_key_values=self.cache(tokens + STEPS), use_cache=True
            )
            self.decode(prompt, 1)
            expected = self.model(input_ids=prompt, use_cache=False).logits[0, -1].float()
            difference = (self._opened().logits - expected).abs().max() / expected.abs().max()
            if not difference <= ROUNDING:
                return f"a step over buffers differs from a forward pass by {float(difference):.2g}"
        return None


def choose_decoder(model: PreTrainedModel, setting: str) -> tuple[StepDecoder | None, str]:
    """The decoder that the setting ``decode`` means for a loaded model, and how to record it.

    Args:
        model: on its device, with its final generation config.
        setting: ``auto`` (a graph where it can be), ``graph`` or ``generate``.

    Returns:
        The decoder and ``graph``, or ``None`` and ``generate`` with the reason.

    Raises:
        CheckpointError: ``graph`` was asked for and cannot be had.
    """
    decoder = None
    reason = "as asked for" if setting == "generate" else why_not(model)
    if reason is None:
        decoder = StepDecoder(model, capture=True)
        try:
            reason = decoder.try_out()
        except (HookError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            reason = f"its step cannot be captured: {str(error).partition(chr(10))[0]}"
    if reason is None:
        return decoder, "graph"
    if setting == "graph":
        raise CheckpointError(f"decode=graph cannot be had, {reason}: use decode=auto")
    return None, f"generate ({reason})"


def why_not(model: PreTrainedModel) -> str | None:
    """Why a model's step cannot be captured, as far as that is known beforehand."""
    if model.device.type != "cuda":
        return "no GPU"
    if len(devices(model)) > 1:
        return "the model is spread over several GPUs"
    text = model.config.get_text_config(decoder=True)
    full, _ = attention_layers(model.config)
    if len(full) != text.num_hidden_layers:
        return "layers with a window or a recurrence keep their own caches"
    if any(adapts(module) for module in model.modules()):
        return "its RoPE adapts to the text's length"
    from method.ops.triton_support import HEAD_DIMS  # Triton is there where a GPU is

    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return None if dim in HEAD_DIMS else f"the kernel does not take heads of {dim}"
