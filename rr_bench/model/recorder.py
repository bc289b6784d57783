"""What the hook saw: density and kernels of one sample's prefill, read once the pass is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from method.attention import PrefillResult
from method.density import causal_blocks


class HookError(RuntimeError):
    """The model, or the way it was called, does not fit the sparse executor."""


@dataclass
class Recorder:
    """What one sample's prefill computed; tensors stay on the device until :meth:`summary`.

    Attributes:
        layers: indices of the full-attention layers, ascending.
    """

    layers: tuple[int, ...]
    _calls: list[tuple[int, PrefillResult, int, int]] = field(default_factory=list)

    def reset(self) -> None:
        """Forget everything: call it before each sample."""
        self._calls.clear()

    def add(self, layer: int, result: PrefillResult, q_len: int, k_len: int) -> None:
        """Note one layer's prefill call. The output itself is not kept."""
        slim = PrefillResult(result.output.new_empty(0), result.density, result.kernel)
        self._calls.append((layer, slim, q_len, k_len))

    @property
    def query_tokens(self) -> list[int]:
        """Query tokens of each recorded call, in call order."""
        return [q_len for _, _, q_len, _ in self._calls]

    def summary(self, expected_layers: int | None = None) -> dict[str, Any]:
        """Read the sample's figures; the only host synchronisation of the recorder.

        Args:
            expected_layers: full-attention layers of the model, if the caller knows better than
                the model's config.

        Returns:
            ``density`` (mean over layers, 0..1), ``density_by_layer``, ``kernels`` (distinct names)
            and ``prefill_calls`` (per layer; more than one when prefill is chunked). Chunks of one
            layer are weighted by their blocks of the causal triangle.

        Raises:
            HookError: some layer never reached the hook, or not as often as the others.
        """
        expected = len(self.layers) if expected_layers is None else expected_layers
        seen = sorted({layer for layer, *_ in self._calls})
        if len(seen) != expected or len(self._calls) % max(expected, 1):
            raise HookError(
                f"the sparse prefill saw {len(self._calls)} calls from layers {seen}, but the model "
                f"has {expected} full-attention layers: its attention does not go through "
                "transformers' AttentionInterface"
            )
        means = [result.density.float().mean() for _, result, _, _ in self._calls]
        # The layers of a spread model leave theirs on several devices.
        values = torch.stack([mean.to(means[0].device) for mean in means]).tolist()
        kept, total = dict.fromkeys(seen, 0.0), dict.fromkeys(seen, 0)
        for value, (layer, _, q_len, k_len) in zip(values, self._calls, strict=True):
            blocks = causal_blocks(q_len, k_len)
            kept[layer] += value * blocks
            total[layer] += blocks
        by_layer = [kept[layer] / total[layer] for layer in seen]
        return {
            "density": sum(by_layer) / len(by_layer),
            "density_by_layer": by_layer,
            "kernels": sorted({result.kernel for _, result, _, _ in self._calls}),
            "prefill_calls": len(self._calls) // expected,
        }


@dataclass
class RequestStats:
    """What one sample cost.

    Attributes:
        input_tokens: prompt tokens, special tokens included.
        prefill_s: seconds of the prompt's forward pass(es), device-synchronised.
        decode_s: seconds from the end of prefill to the last new token; of prompts that were decoded
            together, an equal share of that.
        density: mean over layers, 0..1; ``None`` if the prompt is too short for a prefill.
        density_by_layer: the same per full-attention layer.
        kernels: names of the attention kernels that ran.
        passes: forward passes with a prefill behind these figures.
        compiled: a kernel was compiled meanwhile, so ``prefill_s`` says nothing about the method.
    """

    input_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    density: float | None = None
    density_by_layer: list[float] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    passes: int = 0
    compiled: bool = False

    def add_pass(self, recorder: Recorder, seconds: float) -> None:
        """Add one forward pass; densities of several passes are averaged."""
        self.prefill_s += seconds
        if not recorder.query_tokens:
            return
        summary = recorder.summary()
        past = self.density_by_layer or [0.0] * len(summary["density_by_layer"])
        self.density_by_layer = [
            (old * self.passes + new) / (self.passes + 1)
            for old, new in zip(past, summary["density_by_layer"], strict=True)
        ]
        self.density = sum(self.density_by_layer) / len(self.density_by_layer)
        self.kernels = sorted({*self.kernels, *summary["kernels"]})
        self.passes += 1

    def fields(self) -> dict[str, Any]:
        """What a sample's record keeps of it."""
        return {
            "input_tokens": self.input_tokens,
            "density": self.density,
            "density_by_layer": self.density_by_layer or None,
            "kernels": self.kernels,
            "prefill_s": self.prefill_s,
            "compiled": self.compiled,
            "decode_s": self.decode_s,
        }
