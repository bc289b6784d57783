"""The rows of a decoder layer and of a whole prefill, of models with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from method.attention import PrefillResult
from rr_bench.config.latency import Geometry
from rr_bench.latency.baselines import CPU, DENSE, DenseAttend
from rr_bench.latency.bench import Bench, Entry, Source
from rr_bench.latency.candidate import Candidate, Prepared
from rr_bench.latency.levels import checked_dense, checked_replay
from rr_bench.model.hook import Prefill, sparse_prefill

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}
SMALL_VOCAB = 1024
"""Of the model of one layer: it is fed embeddings, and its logits are not computed."""


def random_model(geometry: Geometry, length: int, dtype: torch.dtype, device: torch.device) -> Any:
    """A causal language model of a shape, its weights drawn as for training.

    Args:
        geometry: the shape.
        length: positions it must have.
        dtype: of the weights.
        device: where they are drawn.
    """
    config = CONFIGS[geometry.family](
        vocab_size=geometry.vocab,
        hidden_size=geometry.hidden,
        intermediate_size=geometry.mlp,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        num_key_value_heads=geometry.kv_heads,
        head_dim=geometry.dim,
        max_position_embeddings=length,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


class Turns:
    """Stands in the hook for the prefill whose turn it is, so that methods can be timed in turns.

    Args:
        layer: the index that a model of one layer gives its layer; ``None`` for its true one.
    """

    def __init__(self, layer: int | None) -> None:
        self._layer = layer
        self.prefill: Prefill | None = None

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        """The prefill's own answer."""
        assert self.prefill is not None
        layer = layer if self._layer is None else self._layer
        return self.prefill(query, key, value, scale=scale, layer=layer)


class Forward:
    """One forward pass under any prefill.

    Args:
        geometry: shape of the model.
        length: tokens of the prompt.
        one_layer: only a decoder layer and the final norm, without embedding, cache and logits.
        dtype: of the weights.
        device: where to run.
        stack: closed when the group is done.
    """

    def __init__(
        self,
        geometry: Geometry,
        length: int,
        one_layer: bool,
        dtype: torch.dtype,
        device: torch.device,
        stack: ExitStack,
    ) -> None:
        self._geometry, self._length, self._one_layer = geometry, length, one_layer
        self._dtype, self._device = dtype, device
        self._stack, self._turns = stack, Turns(geometry.last_layer if one_layer else None)

    @cached_property
    def _model(self) -> PreTrainedModel:
        shape = self._geometry
        if self._one_layer:
            shape = replace(shape, layers=1, vocab=SMALL_VOCAB)
        model: PreTrainedModel = random_model(shape, self._length, self._dtype, self._device)
        self._recorder = self._stack.enter_context(sparse_prefill(model, self._turns))
        return model

    @cached_property
    def _prompt(self) -> Tensor:
        shape, generator = self._geometry, torch.Generator(device=self._device).manual_seed(0)
        size = 1, self._length
        if self._one_layer:
            drawn = torch.randn(*size, shape.hidden, generator=generator, device=self._device)
            return drawn.to(self._dtype)
        return torch.randint(0, shape.vocab, size, generator=generator, device=self._device)

    @torch.inference_mode()
    def __call__(self, prefill: Prefill) -> Tensor:
        """Hidden states of the layer, or the logits of the last token (what TTFT waits for)."""
        model = self._model
        self._turns.prefill = prefill
        self._recorder.reset()
        if self._one_layer:
            answer = model.base_model(inputs_embeds=self._prompt, use_cache=False)
            return answer.last_hidden_state
        return model(input_ids=self._prompt, use_cache=True, logits_to_keep=1).logits


def dense_prefill_by(name: str, attend: DenseAttend) -> Prefill:
    """A dense back end as the prefill of every layer."""

    def prefill(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        density = torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)
        return PrefillResult(attend(query, key, value, scale), density, f"dense:{name}")

    return prefill


def model_rows(
    bench: Bench, source: Source, level: str, entries: list[Entry], forward: Forward
) -> Iterator[Candidate]:
    """Dense models by PyTorch's back ends, and methods with a replayed mask of the first density.

    Each prefill is checked on random inputs of the very size that the model gives it.

    Args:
        bench: what all groups share.
        source: random inputs of the model's shape.
        level: ``layer`` or ``prefill``.
        entries: methods to run.
        forward: the forward pass.
    """
    memory = 0.0 if level == "layer" else None

    def by_dense(name: str) -> Prepared:
        attend, error = checked_dense(source.inputs, name)
        call = partial(forward, dense_prefill_by(name, attend))
        return Prepared(call, error=error, uncounted_mib=memory)

    def by_method(entry: Entry) -> Prepared:
        prefill, prepared = checked_replay(bench, source.inputs, entry, bench.replay[0])
        return replace(prepared, call=partial(forward, prefill), uncounted_mib=memory)

    for name in (*DENSE, CPU):
        if name != CPU or bench.device.type == "cpu":
            row = source.row(bench, level, "full", f"dense:{name}", 1.0)
            yield Candidate(row, partial(by_dense, name))
    for entry in entries:
        if not source.native(entry):
            row = source.row(bench, level, entry.label, None, bench.replay[0], "replay")
            yield Candidate(row, partial(by_method, entry))
