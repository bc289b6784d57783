"""``verb=search``: MInference's offline search, a pattern file for any model.

Every head of every layer is shown real prompts under dense attention, and each candidate pattern
is scored by the share of attention mass it would have kept (MInference, arXiv 2407.02490,
kernel-aware pattern search). Candidates and rows are those of the authors' code, and so is where its
search departs from the method: a window of 801 tokens for 800, and fewer distances that come first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from method.attention import SparsePrefill
from method.keep import NO_KEEP
from method.ops.vertical_slash.head_patterns import A_SHAPE, BLOCKS, LINES, LayerHeads
from method.ops.vertical_slash.torch import mean_tiles
from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.model.dense_observer import Tap
from rr_bench.plan.cells import make_plan
from rr_bench.plan.model_facts import CheckpointError
from rr_bench.run.calibrate import calibration_prompts
from rr_bench.run.console import Console
from rr_bench.run.session import Session

CANDIDATES: tuple[tuple[str, int, int], ...] = (
    (A_SHAPE, 100, 800),
    (LINES, 30, 800),
    (LINES, 100, 750),
    (LINES, 500, 700),
    (LINES, 3500, 100),
    (BLOCKS, 8, 1),
)
SAVED_AS = {(A_SHAPE, 100, 800): (LINES, 100, 800), (BLOCKS, 8, 1): (LINES, 1000, 6096)}
"""What the authors' search writes instead of the patterns that are no lines."""

NEAR_DISTANCES = 30
"""Distances that come first in the search; the method itself begins with 100."""

FIRST_ROW = 2500
_POOL = 32
_CHUNK_LOGITS = 1 << 24


@dataclass(frozen=True)
class PatternSearch(Tap):
    """Dense attention that scores the candidates of every head on the way.

    Attributes:
        scores: by layer, ``[prompts, candidates, Hq]`` as a list of tensors: share of the mass kept,
            mean over the query rows from 2500 on (from the middle on in shorter prompts).
    """

    scores: dict[int, list[Tensor]] = field(default_factory=dict)

    def note(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, layer: int) -> None:
        """Note the candidates' scores."""
        self.scores.setdefault(layer, []).append(candidate_scores(query, key, scale).cpu())


def candidate_scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Share of attention mass that each candidate keeps: ``[candidates, Hq]``, mean over batch.

    Args:
        query: ``[B, Hq, L, D]``.
        key: ``[B, Hkv, L, D]``.
        scale: factor on the logits.
    """
    batch, heads, length, dim = query.shape
    everyone = list(range(heads))
    lines: dict[int, tuple[Tensor, Tensor]] = {}
    for index, candidate in enumerate(CANDIDATES):
        if candidate[0] == LINES:
            layer = LayerHeads([candidate] * heads, 1.0, "auto")
            lines[index] = layer.lines(query, key, scale, everyone, near=NEAR_DISTANCES)
    work = torch.promote_types(query.dtype, torch.float32)
    blocks = best_blocks(query, key)
    first_row = min(FIRST_ROW, length // 2)
    step = max(1, _CHUNK_LOGITS // (batch * heads * length))
    at_key = torch.arange(length, device=query.device)
    kept = torch.zeros(len(CANDIDATES), heads, dtype=torch.float64, device=query.device)
    for first in range(first_row, length, step):
        rows = torch.arange(first, min(first + step, length), device=query.device)
        distance = rows[:, None] - at_key
        grouped = query[:, :, rows].to(work).reshape(batch, key.shape[1], -1, dim)
        logits = (grouped @ key.to(work).transpose(-1, -2)).view(batch, heads, -1, length) * scale
        weights = logits.masked_fill_(distance < 0, -torch.inf).softmax(-1)
        for index, (kind, one, two) in enumerate(CANDIDATES):
            if kind == LINES:
                columns, slashes = lines[index]
                seen = columns[:, :, None, :] | slashes[:, :, distance.clamp(min=0)]
            elif kind == A_SHAPE:
                seen = (at_key < one) | (distance <= two)
            else:
                seen = blocks[:, :, rows // _POOL].repeat_interleave(_POOL, -1)[..., :length]
            kept[index] += (weights * seen).sum((0, 2, 3), dtype=torch.float64)
    return kept / (batch * (length - first_row))


def best_blocks(query: Tensor, key: Tensor) -> Tensor:
    """The top eighth of pooled 32-blocks of every row: bool ``[B, Hq, blocks, blocks]``.

    An eighth of all blocks, rounded down, however many of them the row sees.
    """
    group = query.shape[1] // key.shape[1]
    rows, columns = mean_tiles(query, _POOL), mean_tiles(key, _POOL)
    logits = rows @ columns.repeat_interleave(group, 1).transpose(-1, -2)
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    best = logits.masked_fill(~causal, -torch.inf).topk(logits.shape[-1] // 8, dim=-1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, best, True) & causal


def winners(scores: dict[int, list[Tensor]], *, as_saved: bool) -> list[dict[str, list[Any]]]:
    """The best candidate of every head in MInference's format; the earlier one if equal.

    Args:
        scores: see :class:`PatternSearch`.
        as_saved: write lines for the patterns that are none, as the authors do.
    """
    layers = []
    for layer in range(max(scores) + 1):
        entry: dict[str, list[Any]] = {}
        if layer in scores:
            mean = torch.stack(scores[layer]).mean(0)
            for head, best in enumerate(mean.argmax(0).tolist()):
                pattern = CANDIDATES[best]
                shown = SAVED_AS.get(pattern, pattern) if as_saved else pattern
                entry[str(head)] = [*shown, round(float(mean[best, head]), 6)]
        layers.append(entry)
    return layers


def to_json(layers: list[dict[str, list[Any]]]) -> str:
    """The file's text, one line per head."""
    shown = [
        ",\n".join(f'  "{head}": {json.dumps(pattern)}' for head, pattern in layer.items())
        for layer in layers
    ]
    return "[\n" + ",\n".join(" {\n" + heads + "\n }" for heads in shown) + "\n]\n"


def search(settings: RunSettings) -> int:
    """Search patterns on the first ``samples`` prompts of every task and length.

    Writes ``patterns.json`` (lines only, as the authors' files) and ``patterns_found.json`` (the
    winners themselves) into ``out``.

    Returns:
        Exit status: 0, or 1 if the model or the tasks cannot be used.
    """
    console = Console()
    try:
        plan = make_plan(settings)
        if plan.problems or settings.dry_run:
            for problem in plan.problems:
                console.error("plan", problem)
            return 1 if plan.problems else 0
        session = Session(settings, plan.model)
        prompts = calibration_prompts(session, plan)
    except (CheckpointError, ConfigError, ValueError, OSError) as error:
        console.error("search", error)
        return 1
    method = PatternSearch()
    for number, prompt in enumerate(prompts, 1):
        console.say(f"prompt {number} of {len(prompts)}: {prompt.tokens} tokens")
        session.prefill(prompt, SparsePrefill(method, NO_KEEP))
    folder = Path(settings.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, as_saved in (("patterns.json", True), ("patterns_found.json", False)):
        text = to_json(winners(method.scores, as_saved=as_saved))
        (folder / name).write_text(text, encoding="utf-8")
    console.say(f"written: {folder / 'patterns.json'}, for methods={{name: minference, patterns: ...}}")
    return 0
