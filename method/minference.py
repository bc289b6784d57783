"""MInference: a pattern per head found offline, its lines found online."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask, causal_map
from method.keep import KeepPolicy
from method.kernels import line_attention as native
from method.streaming import a_shape_map
from method.tables import layer_entry, read_layers
from method.vertical_slash import (
    ESTIMATORS,
    device_numbers,
    line_mask,
    profile,
    project_lines,
    take_highest,
    uses_triton,
)

LINES, A_SHAPE, BLOCKS = "vertical_and_slash", "stream_llm", "block_sparse"
VARIANTS = ("projected", "native")
TOP_BLOCKS = 100
_LAST = 64
_SETTING = "minference: patterns"
_CHUNK_TOKENS = 1 << 26

Head = tuple[str, int, int]


@dataclass(frozen=True)
class MInference(Method):
    """MInference 1.0 (arXiv 2407.02490, NeurIPS 2024), dynamic sparse prefill with offline patterns.

    Rule. Every head has one of three patterns, with sizes, found once per model:

    * ``vertical_and_slash`` (v, s): the attention of the last 64 queries over all keys is
      computed exactly. The ``v`` keys with the most mass become vertical lines, the ``s``
      distances with the most mass slashes; the first 30 keys and the distances below 100 always
      come first. ``v`` is at least 30 and ``s`` at least 50.
    * ``stream_llm`` (sink, window): an A-shape, dense while the prompt fits into the window.
    * ``block_sparse``: for every 64 queries the 100 key blocks of 64 with the highest product of
      mean query and mean key.

    Lines do not lie on blocks. The ``projected`` variant computes every 128-block that a line
    touches, on the shared kernel: more than the original computes, so it scores no worse and counts
    as denser. The ``native`` variant computes exactly the single columns and the 64-row tiles of
    the original, and its density counts those; it is there to be compared with, and slow.

    Defaults: no pattern file and (1000, 6096) for every head, the library's fallback for unknown
    models and the most common entry of its files; (512, 2048) is what it ships for Llama-3.1-8B.
    Sizes are counts of lines, whatever the length: short prompts are nearly dense.

    Known departures:
        * Logits and line sums stay in fp32; equal sums go to the earlier key or distance.
        * The authors' search lists A-shape and block-sparse heads but ships nearly all of them as
          lines; here a file may hold all three. A-shape heads are computed in whole tiles.
        * ``ratio`` also scales the 100 blocks of block-sparse heads.
        * Mean queries and keys of a ragged last block are true means.
        * Fewer queries than keys are supported, the last queries being those of the call.

    Attributes:
        patterns: JSON file in MInference's format, a list with one object per layer that maps head
            indices to ``[pattern, size, size, score]``; None for no file.
        vertical_size: keys per head that the file does not list.
        slash_size: distances per head that the file does not list.
        ratio: factor on all sizes.
        dense_layers: this many first layers stay dense.
        variant: "projected" or "native".
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown, or the file holds an unknown pattern.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=False, diagonal=False, last_row=False)
    knob: ClassVar[Knob | None] = Knob("ratio", 0.001, float(1 << 20))
    causal_choice: ClassVar[bool] = False

    patterns: str | None = None
    vertical_size: int = 1000
    slash_size: int = 6096
    ratio: float = 1.0
    dense_layers: int = 0
    variant: str = "projected"
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if min(self.vertical_size, self.slash_size, self.dense_layers) < 0 or not self.ratio > 0:
            raise ValueError(
                f"minference: vertical_size={self.vertical_size}, slash_size={self.slash_size} and "
                f"dense_layers={self.dense_layers} are at least 0, ratio={self.ratio} is above 0"
            )
        for name, allowed in (("variant", VARIANTS), ("estimator", ESTIMATORS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"minference: {name}={getattr(self, name)!r} is not one of {', '.join(allowed)}"
                )
        for layer, entry in enumerate(self._table):
            check_patterns(entry, f"{_SETTING}={self.patterns}, layer {layer}")

    @cached_property
    def _table(self) -> list[dict[str, Any]]:
        return [] if self.patterns is None else read_layers(self.patterns, _SETTING)

    def heads_of(self, layer: int, heads: int) -> list[Head]:
        """Pattern and scaled sizes of every head of a layer.

        Raises:
            ValueError: the pattern file was made for a model with fewer layers or more heads.
        """
        entry = {}
        if self.patterns is not None:
            entry = layer_entry(self._table, layer, self.patterns, _SETTING)
            if any(int(head) >= heads for head in entry):
                raise ValueError(
                    f"{_SETTING}={self.patterns} lists head {max(map(int, entry))} in layer {layer}, "
                    f"the model has {heads} heads: the file belongs to another model"
                )
        missing = [LINES, self.vertical_size, self.slash_size]
        found = [entry.get(str(head), missing) for head in range(heads)]
        return [(kind, int(a * self.ratio), int(b * self.ratio)) for kind, a, b, *_ in found]

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """The projection onto blocks, under either variant; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len, device = key.shape[2], query.device
        if layer < self.dense_layers:
            return BlockMask.causal(batch, heads, q_len, k_len, device)
        plan = self.heads_of(layer, heads)
        triton = uses_triton(self.estimator, query)
        others = flags = None
        members = [head for head in range(heads) if plan[head][0] == LINES]
        if len(members) == heads:
            lines = project_lines(*self.lines(query, key, scale, plan, members), q_len, k_len)
        else:
            others = self._others(query, key, plan)
            flags = device_numbers(tuple(float(kind != LINES) for kind, *_ in plan), device) > 0
            flags = flags.expand(batch, heads)
            lines = self._some_lines(query, key, scale, plan, members)
        return line_mask(*lines, q_len, k_len, keep, others=others, flags=flags, triton=triton)

    def _some_lines(
        self, query: Tensor, key: Tensor, scale: float, plan: list[Head], members: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Block lines of a layer in which only ``members`` have any; see :func:`project_lines`."""
        q_len, k_len, device = query.shape[2], key.shape[2], query.device
        none = torch.zeros(*query.shape[:2], k_len, dtype=torch.bool, device=device)
        if not members:
            return project_lines(none, none, q_len, k_len)
        columns, slashes = (
            none.index_copy(1, head_index(members, device), part)
            for part in self.lines(query, key, scale, plan, members)
        )
        return project_lines(columns, slashes, q_len, k_len)

    def _others(self, query: Tensor, key: Tensor, plan: list[Head]) -> Tensor:
        """Blocks of the heads without lines: bool ``[B, Hq, rows, columns]``, others False."""
        (batch, heads, q_len, _), k_len, device = query.shape, key.shape[2], query.device
        causal = causal_map(q_len, k_len, device)
        rows, columns = causal.shape
        others = torch.zeros(batch, heads, rows, columns, dtype=torch.bool, device=device)
        members = [head for head in range(heads) if plan[head][0] == A_SHAPE]
        if members:
            sizes = self._a_shapes(plan, members, k_len, device)
            pattern = a_shape_map(q_len, k_len, *sizes, device).expand(batch, -1, -1, -1)
            others.index_copy_(1, head_index(members, device), pattern)
        members = [head for head in range(heads) if plan[head][0] == BLOCKS]
        if members:
            tiles = self._tiles(query, key, members)
            padded = F.pad(tiles, (0, 2 * columns - tiles.shape[3], 0, 2 * rows - tiles.shape[2]))
            blocks = padded.unflatten(3, (-1, 2)).any(4).unflatten(2, (-1, 2)).any(3)
            others.index_copy_(1, head_index(members, device), blocks)
        return others

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        layer: int,
        keep: KeepPolicy,
    ) -> tuple[Tensor, Tensor] | None:
        """Attention at the original's granularity under ``native``, some heads at a time.

        See :meth:`method.base.Method.attend`.
        """
        batch, heads, q_len, _ = query.shape
        k_len = key.shape[2]
        if self.variant != "native" or layer < self.dense_layers:
            return None
        plan = self.heads_of(layer, heads)
        forced = keep.forced(q_len, k_len, query.device)
        output = torch.empty_like(query)
        pairs = torch.empty(batch, heads, dtype=torch.int64, device=query.device)
        step = max(1, _CHUNK_TOKENS // (batch * native.tile_rows(q_len) * k_len))
        for kind in PATTERNS:
            all_members = [head for head in range(heads) if plan[head][0] == kind]
            for first in range(0, len(all_members), step):
                members = all_members[first : first + step]
                cover = native.force_blocks(*self._cover(query, key, scale, plan, members), forced)
                owners = [head // (heads // key.shape[1]) for head in members]
                part = native.covered_attention(
                    query[:, members].flatten(0, 1),
                    key[:, owners].flatten(0, 1),
                    value[:, owners].flatten(0, 1),
                    cover[0],
                    scale=scale,
                )
                output[:, members] = part.unflatten(0, (batch, -1))
                pairs[:, members] = cover[1].view(batch, -1)
        return output, native.pair_density(pairs, q_len, k_len)

    def _cover(
        self, query: Tensor, key: Tensor, scale: float, plan: list[Head], members: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Keys ``[B * members, query tiles, Lk]`` and pairs of heads that share one pattern."""
        q_len, k_len = query.shape[2], key.shape[2]
        kind = plan[members[0]][0]
        if kind == LINES:
            columns, slashes = self.lines(query, key, scale, plan, members)
            return native.line_cover(columns.flatten(0, 1), slashes.flatten(0, 1), q_len, k_len)
        if kind == BLOCKS:
            return native.tile_cover(self._tiles(query, key, members).flatten(0, 1), k_len)
        sizes = self._a_shapes(plan, members, k_len, query.device)
        tiles = native.tile_a_shape(q_len, k_len, *sizes, query.device)
        return native.tile_cover(tiles.repeat(query.shape[0], 1, 1), k_len)

    def lines(
        self, query: Tensor, key: Tensor, scale: float, plan: list[Head], members: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Chosen keys and distances, bool ``[B, members, Lk]`` each."""
        k_len, device = key.shape[2], key.device
        # Only the last queries matter, and their positions follow from the number of keys.
        sums = profile(query[:, :, -_LAST:], key, scale=scale, last=_LAST, estimator=self.estimator)
        if len(members) < query.shape[1]:
            index = head_index(members, device)
            sums = (sums[0].index_select(1, index), sums[1].index_select(1, index))
        at = torch.arange(k_len, device=device)
        # No sum exceeds 64: above that, the nearer one comes first among the forced.
        scores = torch.stack(
            [
                torch.where(at < first, 1000.0 - at, part)
                for part, first in zip(sums, (30, 100), strict=True)
            ]
        )
        sizes = [
            min(k_len, max(plan[head][place], least))
            for place, least in ((1, 30), (2, 50))
            for head in members
        ]
        counts = device_numbers(tuple(sizes), device).view(2, 1, -1)
        triton = uses_triton(self.estimator, query)
        columns, slashes = take_highest(scores, counts, triton=triton)
        return columns, slashes

    def _a_shapes(
        self, plan: list[Head], members: list[int], k_len: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Sinks and windows ``[members, 1, 1]``; a prompt that fits into a window is dense."""
        pairs = [
            (plan[head][1], max(plan[head][2], 1)) if k_len > plan[head][2] else (k_len, k_len)
            for head in members
        ]
        sizes = device_numbers(tuple(size for pair in pairs for size in pair), device)
        sink, window = sizes.long().view(-1, 2, 1, 1).unbind(1)
        return sink, window

    def _tiles(self, query: Tensor, key: Tensor, members: list[int]) -> Tensor:
        """Chosen 64x64 tiles of block-sparse heads: bool ``[B, members, query tiles, key tiles]``."""
        group = query.shape[1] // key.shape[1]
        index = head_index(members, query.device)
        rows, columns = native.mean_tiles(query.index_select(1, index)), native.mean_tiles(key)
        logits = rows @ columns.index_select(1, index // group).transpose(-1, -2)
        visible = native.tile_causal(query.shape[2], key.shape[2], query.device)
        count = min(max(int(TOP_BLOCKS * self.ratio), 1), columns.shape[2])
        best = logits.masked_fill(~visible, -torch.inf).topk(count, dim=-1).indices
        return torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, best, True) & visible


PATTERNS = (LINES, A_SHAPE, BLOCKS)


def head_index(members: list[int], device: torch.device) -> Tensor:
    """Indices of some heads on the device, int64."""
    return device_numbers(tuple(members), device).long()


def check_patterns(entry: Any, where: str) -> None:
    """Raise ``ValueError`` unless one layer of a pattern file can be used."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: an object of heads is needed, found {str(entry)[:60]}")
    for head, pattern in entry.items():
        fits = isinstance(pattern, list) and len(pattern) >= 3 and head.isdecimal()
        if not fits or not all(isinstance(size, int) and size >= 0 for size in pattern[1:3]):
            raise ValueError(
                f"{where}, head {head}: [pattern, size, size, score] is needed, found "
                f"{str(pattern)[:60]}"
            )
        if pattern[0] not in PATTERNS:
            raise ValueError(
                f"{where}, head {head}: unknown pattern {pattern[0]!r}; the patterns are "
                f"{', '.join(PATTERNS)}"
            )
