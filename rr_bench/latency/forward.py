"""Forward passes of whole models and of single decoder layers under any prefill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from method.attention import PrefillResult
from rr_bench.config.latency import Geometry
from rr_bench.latency.baselines import Absent
from rr_bench.latency.graphs import captured
from rr_bench.model.hook import Prefill, sparse_prefill
from rr_bench.model.recorder import Recorder
from rr_bench.run.prompt import Prompt
from rr_bench.run.session import Session

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config}
SMALL_VOCAB = 1024
"""Of the model of one layer: it is fed embeddings, and its logits are not computed."""


@dataclass(eq=False)
class Forward:
    """One forward pass under any prefill.

    Attributes:
        make: the model and what its pass is called with, made on first use.
        stack: closed when the group is done; holds the hook.
        body: stop before the logits.
        layer: told to the prefill in place of the model's own layer, for a model of one layer.
    """

    make: Callable[[], tuple[PreTrainedModel, Mapping[str, Any]]]
    stack: ExitStack
    body: bool = False
    layer: int | None = None
    _turn: Prefill | None = field(default=None, init=False)
    _pool: Any = field(default=None, init=False)

    @cached_property
    def _ready(self) -> tuple[PreTrainedModel, Mapping[str, Any], Recorder]:
        model, inputs = self.make()
        return model, inputs, self.stack.enter_context(sparse_prefill(model, self._prefill))

    def _prefill(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int
    ) -> PrefillResult:
        """Stands in the hook for the prefill whose turn it is."""
        assert self._turn is not None
        layer = layer if self.layer is None else self.layer
        return self._turn(query, key, value, scale=scale, layer=layer)

    @torch.inference_mode()
    def __call__(self, prefill: Prefill) -> Tensor:
        """Hidden states of the body, or the logits of the last token (what TTFT waits for)."""
        model, inputs, recorder = self._ready
        self._turn = prefill
        recorder.reset()
        if self.body:
            return model.base_model(**inputs, use_cache=False).last_hidden_state
        return model(**inputs, use_cache=True, logits_to_keep=1).logits

    def density(self, prefill: Prefill) -> float:
        """Mean density over layers and heads, of a pass made for it."""
        self(prefill)
        return float(self._ready[2].summary()["density"])

    def captured(self, prefill: Prefill) -> Callable[[], Tensor]:
        """The pass captured in a CUDA graph.

        Graphs of one model share their memory, which only the one that is replayed uses.

        Raises:
            Absent: there is no GPU.
        """
        if not torch.cuda.is_available():
            raise Absent("latency.graph=true needs a GPU")
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return captured(partial(self, prefill), self._pool)


def random_forward(
    geometry: Geometry, length: int, dtype: torch.dtype, device: torch.device, stack: ExitStack
) -> Forward:
    """The pass of a model with random weights over random tokens."""

    def make() -> tuple[PreTrainedModel, Mapping[str, Any]]:
        generator = torch.Generator(device=device).manual_seed(0)
        ids = torch.randint(0, geometry.vocab, (1, length), generator=generator, device=device)
        return random_model(geometry, length, dtype, device), {"input_ids": ids}

    return Forward(make, stack)


def layer_forward(
    geometry: Geometry, length: int, dtype: torch.dtype, device: torch.device, stack: ExitStack
) -> Forward:
    """The pass of one decoder layer and the final norm, without embedding, cache and logits."""

    def make() -> tuple[PreTrainedModel, Mapping[str, Any]]:
        generator = torch.Generator(device=device).manual_seed(0)
        drawn = torch.randn(1, length, geometry.hidden, generator=generator, device=device)
        one = replace(geometry, layers=1, vocab=SMALL_VOCAB)
        return random_model(one, length, dtype, device), {"inputs_embeds": drawn.to(dtype)}

    # A model of one layer calls its layer 0; methods may leave the first ones dense.
    return Forward(make, stack, body=True, layer=geometry.last_layer)


def prompt_forward(load: Callable[[], tuple[Session, Prompt]], stack: ExitStack) -> Forward:
    """The pass of a session's model over a prompt; ``load`` gives both."""

    def make() -> tuple[PreTrainedModel, Mapping[str, Any]]:
        session, prompt = load()
        return session.lm.model, prompt.inputs

    return Forward(make, stack)


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
