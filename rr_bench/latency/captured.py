"""Queries, keys and values of a real prompt, taken from a model's own prefill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from method.attention import SparsePrefill
from method.keep import NO_KEEP
from rr_bench.config.schema import RunSettings
from rr_bench.model.dense_observer import Tap
from rr_bench.plan.cells import ModelFacts, make_plan
from rr_bench.run.session import Session

Tensors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Capture(Tap):
    """Keeps the inputs of one layer.

    Attributes:
        layer: index of the layer.
        found: its query, key and value.
    """

    layer: int
    found: list[Tensors] = field(default_factory=list)

    def note(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int) -> None:
        """Keep copies, if it is the layer's turn."""
        if layer == self.layer:
            self.found.append((query.clone(), key.clone(), value.clone()))


class Captured:
    """Inputs captured from the first prompt of the first task, by length.

    Args:
        settings: ``model``, ``tasks``, ``seed``, ``data`` and what else decides the prompts.
        facts: facts of the model.
    """

    def __init__(self, settings: RunSettings, facts: ModelFacts) -> None:
        self._settings = replace(settings, tasks=settings.tasks[:1], samples=1, slice=None)
        self._facts = facts
        self._session: Session | None = None
        self._tensors: dict[int, Tensors] = {}

    def layer(self) -> int:
        """Index of the layer: the one in the middle of the model."""
        return int(self._facts.config["num_hidden_layers"]) // 2

    def tensors(self, length: int) -> Tensors:
        """Query, key and value of a prompt of about ``length`` tokens.

        Raises:
            CheckpointError: the model does not load, or is not made for this length.
            ValueError: the task cannot be used.
        """
        if length not in self._tensors:
            settings = replace(self._settings, lengths=[length])
            plan = make_plan(settings)
            if plan.problems:
                raise ValueError(plan.problems[0])
            if self._session is None:
                self._session = Session(settings, self._facts)
            capture = Capture(self.layer())
            prompt = self._session.prompts(plan.cells[0])[0]
            self._session.prefill(prompt, SparsePrefill(capture, NO_KEEP))
            if not capture.found:
                raise ValueError(
                    f"layer {self.layer()} of {self._facts.name} is no full-attention layer"
                )
            self._tensors[length] = capture.found[0]
        return self._tensors[length]
