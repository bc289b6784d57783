"""What the probe is trained on, step by step: lengths that double, and batches by step number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from rr_bench.probe.corpus import Example, draw_text, encode

TOKENS_PER_STEP = 65536

STAGES: tuple[tuple[int, int], ...] = (
    (256, 700),
    (512, 500),
    (1024, 600),
    (2048, 500),
    (4096, 500),
    (8192, 500),
    (16384, 500),
    (32768, 400),
    (65536, 300),
    (131072, 250),
)
"""(length in tokens, optimiser steps). A step holds at least one text."""


@dataclass(frozen=True)
class Batch:
    """Texts of one length and the positions that are trained.

    Attributes:
        ids: int64 ``[texts, tokens]``.
        positions: int64 ``[n]``, positions in the flattened ``ids`` whose next token is trained.
        targets: int64 ``[n]``, those next tokens.
        answers: int64 ``[n]``, the number of the answer each belongs to, counted over the batch.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    answers: Tensor


def collate(examples: list[Example]) -> Batch:
    """Stack examples of one length."""
    tokens = len(examples[0].ids)
    first = np.cumsum([0, *(e.spans.max(initial=-1) + 1 for e in examples)])
    return Batch(
        torch.from_numpy(np.stack([e.ids for e in examples])),
        torch.from_numpy(np.concatenate([e.positions + i * tokens for i, e in enumerate(examples)])),
        torch.from_numpy(np.concatenate([e.targets for e in examples])),
        torch.from_numpy(np.concatenate([e.spans + first[i] for i, e in enumerate(examples)])),
    )


class Curriculum(Dataset[Batch]):
    """Item ``i`` is the batch of step ``i``, a function of the seed and ``i`` alone.

    Half of each stage's batches are drawn from the shorter lengths before it: without them a longer
    stage destroys what the shorter ones taught.

    Args:
        tokenizer: the probe's.
        stages: (length, steps) in order.
        seed: of the whole training.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stages: tuple[tuple[int, int], ...], seed: int
    ) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        self.lengths = [length for length, _ in stages]
        self.stage_of = [stage for stage, (_, steps) in enumerate(stages) for _ in range(steps)]

    def __len__(self) -> int:
        return len(self.stage_of)

    def __getitem__(self, step: int) -> Batch:
        stage = self.stage_of[step]
        rng = random.Random(f"{self.seed}-{step}")
        if stage and rng.random() < 0.5:
            stage = rng.randrange(stage)
        length = self.lengths[stage]
        first = step * TOKENS_PER_STEP
        texts = range(first, first + max(1, TOKENS_PER_STEP // length))
        return collate([encode(draw_text(self.seed, i, length), self.tokenizer, length) for i in texts])

    def from_step(self, start: int, workers: int) -> Iterator[Batch]:
        """The remaining batches in order, prepared by worker processes."""
        loader: DataLoader[Batch] = DataLoader(
            self,
            batch_size=None,
            sampler=range(start, len(self)),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
        return iter(loader)
