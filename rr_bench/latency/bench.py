"""What the rows of all levels share: methods, inputs and their names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from method.attention import SparsePrefill
from method.base import Method
from method.keep import KeepPolicy
from rr_bench.latency.cases import Shape
from rr_bench.latency.inputs import Inputs
from rr_bench.latency.parity import check_selection
from rr_bench.latency.table import Row


@dataclass(frozen=True)
class Entry:
    """A method to be timed.

    Attributes:
        name: stem of its YAML file.
        label: name in the table.
        method: the method.
        keep: blocks that it must keep.
    """

    name: str
    label: str
    method: Method
    keep: KeepPolicy

    def native(self, heads: int, layer: int) -> bool:
        """Whether the method attends by a kernel of its own instead of selecting blocks."""
        if type(self.method).attend is Method.attend:
            return False
        tiny = torch.randn(1, heads, 128, 64)
        try:
            own = self.method.attend(tiny, tiny, tiny, scale=0.125, layer=layer, keep=self.keep)
        except ValueError:
            return False  # its settings do not fit the model, as its row will say
        return own is not None


@dataclass(frozen=True)
class Bench:
    """What all groups share.

    Attributes:
        device: where to measure.
        device_name: its name in the table.
        entries: methods, the dense one left out.
        densities: of the masks of the attention level.
        replay: densities of the masks that stand in for selections.
        backend: setting ``backend`` of the executor.
        dense_below: setting of the same name: shorter prompts run dense above the level attention.
    """

    device: torch.device
    device_name: str
    entries: list[Entry]
    densities: list[float]
    replay: list[float]
    backend: str
    dense_below: int = 0
    _selections: dict[tuple[str, Shape, int], float | None] = field(default_factory=dict)

    def prefill(self, method: Method, keep: KeepPolicy) -> SparsePrefill:
        """A layer's prefill as the executor's settings have it."""
        return SparsePrefill(method, keep, self.backend, self.dense_below)

    def check_selection(self, entry: Entry, inputs: Inputs) -> float | None:
        """The selection's check on a short prompt, made once for every shape of head."""
        shape, layer = inputs.shape, inputs.layer
        key = entry.label, replace(shape, length=0), layer
        if key not in self._selections:
            self._selections[key] = check_selection(entry.method, entry.keep, shape, layer, self.device)
        return self._selections[key]


@dataclass(frozen=True)
class Source:
    """Inputs of one length and their names in the table.

    Attributes:
        model: the shape's or the model's name.
        kind: ``random`` or ``probe``.
        length: tokens asked for.
        heads: query heads.
        inputs: query, key and value.
    """

    model: str
    kind: str
    length: int
    heads: int
    inputs: Inputs

    def native(self, entry: Entry) -> bool:
        """Whether a method attends to them by a kernel of its own."""
        return entry.native(self.heads, self.inputs.layer)

    def row(
        self,
        bench: Bench,
        level: str,
        method: str,
        backend: str | None = None,
        density: float | None = None,
        kind: str | None = None,
    ) -> Row:
        """A row without times."""
        inputs = kind or self.kind
        return Row(
            level,
            self.model,
            inputs,
            method,
            backend,
            self.length,
            density=density,
            device=bench.device_name,
        )


def estimator(entry: Entry, device: torch.device) -> str:
    """What a method's selection runs on: its own setting, or PyTorch where it has none."""
    setting = str(getattr(entry.method, "estimator", "torch"))
    return ("triton" if device.type == "cuda" else "torch") if setting == "auto" else setting
