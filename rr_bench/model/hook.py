"""The one place that touches transformers: sparse prefill through its attention registry.

Inside ``with sparse_prefill(model, prefill)`` every full-attention layer of the language model
sends its prefill (two query tokens or more) to ``prefill`` and its decode steps to dense attention;
sliding-window layers stay native. Nothing is patched and no config is written to: the model's
modules look at copies of their configs meanwhile and get the originals back on exit, so another
model that was built from the same config never notices. RoPE that adapts to the text's length starts
from its original frequencies each time, so a sample's result does not depend on earlier samples.

Whatever the shared kernel could not compute exactly is an error: a silent dense run, or a wrong
mask, would be worse than none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask, sdpa_mask

from method.attention import PrefillResult
from method.ops.dense import dense_decode
from rr_bench.model.recorder import HookError, Recorder
from rr_bench.model.rotary import reset_rope
from rr_bench.model.spread import on_device_of
from rr_bench.plan.families import FULL, layer_kinds
from rr_bench.plan.model_facts import max_positions

NAME = "rr_bench_prefill"
NATIVE_KINDS = ("sliding_attention", "chunked_attention")
UNSUPPORTED = ("s_aux", "softcap", "position_bias")

Prefill = Callable[..., PrefillResult]
"""A layer's prefill, called like :class:`method.attention.SparsePrefill`."""


@dataclass
class _Forward:
    """What the decoder's present forward pass must look like."""

    k_len: int | None = None
    seen: set[int] = field(default_factory=set)


@contextmanager
def sparse_prefill(model: PreTrainedModel, prefill: Prefill) -> Iterator[Recorder]:
    """Send the prefill of ``model``'s language layers to ``prefill``.

    Args:
        model: a causal language model, or a vision-language model (its vision tower is left alone).
        prefill: attention of a layer; usually a :class:`method.attention.SparsePrefill`.

    Yields:
        A :class:`Recorder` of density and kernel names.

    Raises:
        HookError: on entry if the model has no full-attention layer; during a forward pass for
            padding, a static cache, dropout, a non-causal layer, attention sinks, soft-capping, or
            a layer whose attention does not go through the registry.
    """
    full, native = attention_layers(model.config)
    recorder, forward = Recorder(tuple(sorted(full))), _Forward()
    reset_rope(model)
    attend = _attention(prefill, recorder, forward, full, native)
    decoder = model.get_decoder()
    with replaced_attention(model, attend, _mask):
        handles = [
            decoder.register_forward_pre_hook(_before(forward), with_kwargs=True),
            decoder.register_forward_hook(_after(forward, full)),
        ]
        try:
            yield recorder
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def replaced_attention(
    model: PreTrainedModel, attend: Callable[..., Any], mask: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Let the language layers of ``model`` call ``attend`` through the registry.

    Args:
        model: the model.
        attend: called as transformers calls an attention function.
        mask: makes the attention mask; without, ``attend`` gets none.
    """
    name = f"{NAME}_{id(attend)}"
    AttentionInterface.register(name, attend)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)
    originals = _swap_configs(model, name)
    try:
        yield
    finally:
        for module, attribute, config in originals:
            setattr(module, attribute, config)
        # The registries have no public way to unregister.
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)


def attention_layers(config: PreTrainedConfig) -> tuple[frozenset[int], frozenset[int]]:
    """Indices of the full-attention layers, and of those left native (sliding or chunked window).

    A window that holds all the model's positions is full attention. Layers of another kind (linear
    attention, say) are in neither set.
    """
    text = config.get_text_config(decoder=True)
    facts = text.to_dict() | {"num_hidden_layers": text.num_hidden_layers}
    kinds = layer_kinds(facts, max_positions(facts))
    full = frozenset(i for i, kind in enumerate(kinds) if kind == FULL)
    if not full:
        raise HookError(
            f"model type {text.model_type!r} has no full-attention layer (layer kinds: "
            f"{sorted(set(kinds))}): a sparse prefill has nothing to do here"
        )
    return full, frozenset(i for i, kind in enumerate(kinds) if kind in NATIVE_KINDS)


def _swap_configs(model: PreTrainedModel, name: str) -> list[tuple[nn.Module, str, PreTrainedConfig]]:
    """Give every module a copy of its configs with our attention in the text part."""
    memo: dict[int, Any] = {}
    originals = []
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, PreTrainedConfig):
                originals.append((module, attribute, value))
                setattr(module, attribute, copy.deepcopy(value, memo))
    model.config.get_text_config(decoder=True)._attn_implementation = name
    return originals


def _mask(*, local_size: int | None = None, allow_is_causal_skip: bool = True, **kwargs: Any) -> Any:
    """Native masks for windowed layers; for the others ``None``, or the evidence of padding."""
    if local_size is not None or not allow_is_causal_skip:
        return sdpa_mask(local_size=local_size, allow_is_causal_skip=allow_is_causal_skip, **kwargs)
    return flash_attention_mask(**kwargs)


def _before(forward: _Forward) -> Any:
    """Check the cache and note how many key tokens the pass will have."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise HookError(
                f"{type(cache).__name__} hands over unwritten key slots as if they were tokens: use "
                "DynamicCache with a sparse prefill"
            )
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        forward.seen.clear()
        past = cache.get_seq_length() if cache is not None else 0
        forward.k_len = None if tokens is None else past + tokens.shape[1]

    return hook


def _after(forward: _Forward, full: frozenset[int]) -> Any:
    """Check that every full-attention layer reached the hook during the pass."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if forward.seen != full:
            raise HookError(
                f"layers {sorted(full ^ forward.seen)} of {type(module).__name__} did not take the "
                f"sparse prefill as the model's config says (full attention: {sorted(full)}): the "
                "model's code does not use transformers' AttentionInterface for them"
            )

    return hook


def _attention(
    prefill: Prefill,
    recorder: Recorder,
    forward: _Forward,
    full: frozenset[int],
    native: frozenset[int],
) -> Any:
    """Build the function that transformers calls in every attention layer."""

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
        layer: int = module.layer_idx  # type: ignore[assignment]
        check_call(module, layer, dropout, kwargs)
        window = kwargs.get("sliding_window")
        if layer in native or (window is not None and layer not in full):
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
            )
        if window is not None and key.shape[2] > window:
            raise HookError(
                f"layer {layer} has a sliding window of {window} tokens and got {key.shape[2]}: beyond "
                "the model's positions it is no full attention, leave that length out"
            )
        _check_tokens(attention_mask, key.shape[2], forward.k_len)
        forward.seen.add(layer)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        with on_device_of(query):
            if query.shape[2] == 1:
                output = dense_decode(query, key, value, scale=scale)
            else:
                result = prefill(query, key, value, scale=scale, layer=layer)
                recorder.add(layer, result, query.shape[2], key.shape[2])
                output = result.output
        return output.transpose(1, 2).contiguous(), None

    return attend


def check_call(module: nn.Module, layer: int, dropout: float, kwargs: dict[str, Any]) -> None:
    """Refuse what neither the executor nor the native path would compute as the model means it."""
    where = f"{type(module).__name__} of layer {layer}"
    if dropout:
        raise HookError(f"{where} asks for dropout={dropout}: call model.eval() first")
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise HookError(f"{where} is not causal: sparse prefill is defined for causal attention only")
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise HookError(f"{where} passes {name}, which the sparse executor does not compute")


def _check_tokens(attention_mask: Tensor | None, keys: int, expected: int | None) -> None:
    """Refuse padding, packing, and key slots that are not tokens."""
    if attention_mask is not None and attention_mask.dim() == 2:
        raise HookError(
            "the attention mask marks padding: a sparse prefill needs sequences of equal length, so "
            "run with batch size 1 or without padding"
        )
    if attention_mask is not None:
        raise HookError(
            f"the model built a mask of shape {tuple(attention_mask.shape)} beyond plain causality "
            "(packed sequences or a custom 4-D mask): the sparse executor does not take one"
        )
    if expected is not None and keys != expected:
        raise HookError(
            f"attention got {keys} key tokens where {expected} have been seen: use DynamicCache with "
            "a sparse prefill"
        )
