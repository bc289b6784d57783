"""The rows that run selection and attention as one: alone, in a decoder layer, in a whole prefill.

Layers and whole prefills are those of models with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from method.attention import PrefillResult, SparsePrefill
from method.base import Method
from method.blocks import BlockMask
from method.keep import NO_KEEP, KeepPolicy
from rr_bench.config.latency import Geometry
from rr_bench.latency.baselines import Absent, DenseAttend
from rr_bench.latency.gate import check_native, check_output
from rr_bench.latency.graphs import captured
from rr_bench.latency.inputs import Inputs
from rr_bench.latency.levels import Bench, Entry, checked_dense, dense_names, dense_rows
from rr_bench.latency.timing import Candidate, Prepared
from rr_bench.model.hook import Prefill, sparse_prefill

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}
SMALL_VOCAB = 1024
"""Of the model of one layer: it is fed embeddings, and its logits are not computed."""


class Replay(Method):
    """Select a given mask, or note what another method selects.

    Args:
        selecting: a method whose selection is made first.
        mask: taken in place of that selection; ``None``: the selection itself is taken.
        keep: blocks that the other method must keep.
    """

    paper_keep = NO_KEEP

    def __init__(
        self, selecting: Method | None, mask: BlockMask | None = None, keep: KeepPolicy = NO_KEEP
    ) -> None:
        self._selecting, self._given, self._keep = selecting, mask, keep
        self.mask = mask

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """The mask; see :meth:`method.base.Method.select`."""
        chosen = self._given
        if self._selecting is not None:
            own = self._selecting.select(query, key, scale=scale, layer=layer, keep=self._keep)
            chosen = own if self._given is None else self._given
        assert chosen is not None
        self.mask = chosen
        return chosen


def run_prefill(inputs: Inputs, prefill: Callable[..., PrefillResult]) -> PrefillResult:
    """A layer's prefill on inputs."""
    return prefill(*inputs.tensors, scale=inputs.shape.scale, layer=inputs.layer)


def both_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``both``: selection and attention as a layer runs them, on the selection's own mask and,
    for random inputs, on a random mask of a given density in its place.
    """

    def replayed(entry: Entry, density: float) -> Prepared:
        return checked_replay(bench, inputs, entry, density)[1]

    yield from dense_rows(bench, inputs, "both")
    for entry in bench.entries:
        row = bench.row(inputs, "both", entry.spec.label)
        yield Candidate(row, partial(_own_prefill, bench, inputs, entry))
    for density in bench.settings.latency.replay if inputs.kind == "random" else ():
        for entry in bench.selecting(inputs):
            row = bench.row(inputs, "both", entry.spec.label, None, density, "replay")
            yield Candidate(row, partial(replayed, entry, density))


def host_rows(bench: Bench, inputs: Inputs) -> Iterator[Candidate]:
    """Level ``host``: what it costs the host to queue selection and attention."""

    def prepare(entry: Entry) -> Prepared:
        if bench.device.type != "cuda":
            raise Absent("needs a GPU: a CPU queues nothing")
        return replace(_own_prefill(bench, inputs, entry), uncounted_mib=None)

    for entry in bench.entries:
        yield Candidate(bench.row(inputs, "host", entry.spec.label), partial(prepare, entry))


def checked_replay(
    bench: Bench, inputs: Inputs, entry: Entry, density: float
) -> tuple[SparsePrefill, Prepared]:
    """A prefill that selects and then attends to a random mask, and what its gate found."""
    moved = bench.gate.selection(entry.method, entry.keep, inputs)
    mask = inputs.mask(density)
    prefill = bench.prefill(Replay(entry.method, mask, entry.keep), entry.keep)
    result = run_prefill(inputs, prefill)
    error = max(check_output(result.output, _truth(bench, inputs, result, mask)), moved or 0.0)
    call = partial(run_prefill, inputs, prefill)
    return prefill, Prepared(call, result.kernel, 1.0 if _ran_dense(result) else None, error)


def _own_prefill(bench: Bench, inputs: Inputs, entry: Entry) -> Prepared:
    """A method's prefill as a run has it, checked; too short a prompt runs dense."""
    call = partial(run_prefill, inputs, bench.prefill(entry.method, entry.keep))
    if inputs.shape.length < bench.settings.dense_below:
        result = call()
        error = check_output(result.output, bench.gate.truth(inputs, inputs.mask(1.0)))
    elif entry.native(inputs.heads, inputs.layer):
        error = check_native(entry.method, entry.keep, inputs.shape, inputs.layer, bench.device)
        result = call()
    else:
        bench.gate.selection(entry.method, entry.keep, inputs)
        noting = Replay(entry.method, keep=entry.keep)
        result = run_prefill(inputs, bench.prefill(noting, entry.keep))
        assert noting.mask is not None
        error = check_output(result.output, _truth(bench, inputs, result, noting.mask))
    return Prepared(call, result.kernel, float(result.density.mean()), error)


def _ran_dense(result: PrefillResult) -> bool:
    """Whether the executor ran dense, as it may where that is faster."""
    return result.kernel.startswith("dense:")


def _truth(bench: Bench, inputs: Inputs, result: PrefillResult, mask: BlockMask) -> Tensor:
    """What the result should be."""
    return bench.gate.truth(inputs, inputs.mask(1.0) if _ran_dense(result) else mask)


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
        self._stack = stack
        self._turn: Prefill | None = None
        self._pool: Any = None

    @cached_property
    def _model(self) -> PreTrainedModel:
        shape = self._geometry
        if self._one_layer:
            shape = replace(shape, layers=1, vocab=SMALL_VOCAB)
        model: PreTrainedModel = random_model(shape, self._length, self._dtype, self._device)
        self._recorder = self._stack.enter_context(sparse_prefill(model, self._prefill))
        return model

    def _prefill(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        """Stands in the hook for the prefill whose turn it is."""
        assert self._turn is not None
        # A model of one layer calls its layer 0; methods may leave the first ones dense.
        layer = self._geometry.last_layer if self._one_layer else layer
        return self._turn(query, key, value, scale=scale, layer=layer)

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
        self._turn = prefill
        self._recorder.reset()
        if self._one_layer:
            answer = model.base_model(inputs_embeds=self._prompt, use_cache=False)
            return answer.last_hidden_state
        return model(input_ids=self._prompt, use_cache=True, logits_to_keep=1).logits

    def captured(self, prefill: Prefill) -> Callable[[], Tensor]:
        """The pass captured in a CUDA graph.

        Graphs of one model share their memory, which only the one that is replayed uses.

        Raises:
            Absent: there is no GPU.
        """
        if self._device.type != "cuda":
            raise Absent("latency.graph=true needs a GPU")
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return captured(partial(self, prefill), self._pool)


def dense_prefill_by(name: str, attend: DenseAttend) -> Prefill:
    """A dense back end as the prefill of every layer."""

    def prefill(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        density = torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)
        return PrefillResult(attend(query, key, value, scale), density, f"dense:{name}")

    return prefill


def model_rows(
    bench: Bench, inputs: Inputs, level: str, entries: list[Entry], forward: Forward
) -> Iterator[Candidate]:
    """Dense models by every dense back end, and methods with a replayed mask of the first density.

    Each prefill is checked on random inputs of the very size that the model gives it.

    Args:
        bench: what all groups share.
        inputs: random inputs of the model's shape.
        level: ``layer`` or ``prefill``.
        entries: methods to run.
        forward: the forward pass.
    """
    memory = 0.0 if level == "layer" else None

    def by_dense(name: str) -> Prepared:
        attend, error = checked_dense(inputs, name)
        call = call_of(dense_prefill_by(name, attend))
        return Prepared(call, error=error, uncounted_mib=memory)

    def by_method(entry: Entry) -> Prepared:
        prefill, prepared = checked_replay(bench, inputs, entry, density)
        kernel = f"{prepared.backend}{suffix}"
        return replace(prepared, call=call_of(prefill), backend=kernel, uncounted_mib=memory)

    def call_of(prefill: Prefill) -> Callable[[], object]:
        return forward.captured(prefill) if graph else partial(forward, prefill)

    density = bench.settings.latency.replay[0]
    graph = level == "prefill" and bench.settings.latency.graph
    suffix = "+graph" if graph else ""
    for name in dense_names(bench.device):
        row = bench.row(inputs, level, "full", f"dense:{name}{suffix}", 1.0)
        yield Candidate(row, partial(by_dense, name))
    for entry in bench.selecting(inputs, entries):
        row = bench.row(inputs, level, entry.spec.label, None, density, "replay")
        yield Candidate(row, partial(by_method, entry))
