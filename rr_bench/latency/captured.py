"""Queries, keys and values of a real prompt, taken from a model's own prefill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from method.attention import SparsePrefill
from method.base import Method
from method.blocks import BlockMask
from method.keep import KeepPolicy
from method.kernels.dense import dense_prefill
from rr_bench.config import RunSettings
from rr_bench.latency.inputs import NO_KEEP
from rr_bench.plan import ModelFacts, make_plan
from rr_bench.session import Session

Tensors = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Capture(Method):
    """Dense attention that keeps the inputs of one layer.

    Attributes:
        layer: index of the layer.
        found: its query, key and value.
    """

    paper_keep: ClassVar[KeepPolicy] = NO_KEEP

    layer: int
    found: list[Tensors] = field(default_factory=list)

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Everything."""
        batch, heads, q_len, _ = query.shape
        return BlockMask.causal(batch, heads, q_len, key.shape[2], query.device)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        layer: int,
        keep: KeepPolicy,
    ) -> tuple[Tensor, Tensor]:
        """Exact attention."""
        if layer == self.layer:
            self.found.append((query.clone(), key.clone(), value.clone()))
        output, _ = dense_prefill(query, key, value, scale=scale)
        return output, torch.ones(query.shape[:2], dtype=torch.float32, device=query.device)


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
