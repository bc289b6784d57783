"""MInference: a pattern per head found offline, its lines found online."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from method.base import Knob, Method
from method.blocks import BlockMask, num_blocks
from method.keep import NO_KEEP, KeepPolicy
from method.ops.checks import ESTIMATORS, check_choices, uses_triton
from method.ops.vertical_slash.head_patterns import (
    A_SHAPE,
    BLOCKS,
    LINES,
    Head,
    LayerHeads,
    check_patterns,
    head_index,
)
from method.ops.vertical_slash.native import attend_torch, attend_triton
from method.ops.vertical_slash.selection import (
    device_numbers,
    line_mask,
    project_lines,
)
from method.streaming import a_shape_map
from method.tables import layer_entry, read_layers

VARIANTS = ("projected", "native")
_SETTING = "minference: patterns"


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

    Lines do not lie on blocks. The ``native`` variant computes exactly the single columns and the
    64-row tiles of the original on a kernel of its own, and its density counts those. In PyTorch it
    is slow. The ``projected`` variant computes every 128-block that a line touches, on the shared
    kernel. That is far denser at the same sizes (0.95 to 1.00 for 0.32 to 0.70, measured on the
    probe at 4K with a ratio of 0.3), and yet no superset: the original widens key ranges by whole
    tiles, and up to 1 % of the pairs that it computes lie in no block of a line. At equal density
    the projection is a handicap; compare by ``native``.

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
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch"; the native
            variant's attention goes by it too.

    Raises:
        ValueError: a setting is out of range or unknown, or the file holds an unknown pattern.
    """

    paper_keep: ClassVar[KeepPolicy] = NO_KEEP
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
        check_choices("minference", self, variant=VARIANTS, estimator=ESTIMATORS)
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
        patterns = self._layer(layer, heads)
        members, others, flags = patterns.of(LINES), None, None
        if len(members) == heads:
            lines = project_lines(*patterns.lines(query, key, scale, members), q_len, k_len)
        else:
            lines = _some_lines(query, key, scale, patterns)
            others = _other_blocks(query, key, patterns)
            without = tuple(float(kind != LINES) for kind, *_ in patterns.plan)
            flags = (device_numbers(without, device) > 0).expand(batch, heads)
        triton = uses_triton(self.estimator, query)
        return line_mask(*lines, q_len, k_len, keep, others=others, flags=flags, triton=triton)

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
        """Attention at the original's granularity under ``native``, by Triton on a GPU.

        See :meth:`method.base.Method.attend`.
        """
        if self.variant != "native" or layer < self.dense_layers:
            return None
        patterns = self._layer(layer, query.shape[1])
        attend = attend_triton if uses_triton(self.estimator, query) else attend_torch
        return attend(query, key, value, patterns, scale=scale, keep=keep)

    def own_kernel(self, query: Tensor) -> str:
        """See :meth:`method.base.Method.own_kernel`."""
        return "native:triton" if uses_triton(self.estimator, query) else "native:torch"

    def _layer(self, layer: int, heads: int) -> LayerHeads:
        return LayerHeads(self.heads_of(layer, heads), self.ratio, self.estimator)


def _some_lines(
    query: Tensor, key: Tensor, scale: float, patterns: LayerHeads
) -> tuple[Tensor, Tensor, Tensor]:
    """Block lines of a layer in which only some heads have any; see :func:`project_lines`."""
    q_len, k_len, members = query.shape[2], key.shape[2], patterns.of(LINES)
    none = torch.zeros(*query.shape[:2], k_len, dtype=torch.bool, device=query.device)
    if not members:
        return project_lines(none, none, q_len, k_len)
    columns, slashes = (
        none.index_copy(1, head_index(members, query.device), part)
        for part in patterns.lines(query, key, scale, members)
    )
    return project_lines(columns, slashes, q_len, k_len)


def _other_blocks(query: Tensor, key: Tensor, patterns: LayerHeads) -> Tensor:
    """Blocks of the heads without lines: bool ``[B, Hq, rows, columns]``, the others False."""
    (batch, heads, q_len, _), k_len, device = query.shape, key.shape[2], query.device
    rows, columns = num_blocks(q_len), num_blocks(k_len)
    others = torch.zeros(batch, heads, rows, columns, dtype=torch.bool, device=device)
    members = patterns.of(A_SHAPE)
    if members:
        sizes = patterns.a_shapes(members, k_len, device)
        pattern = a_shape_map(q_len, k_len, *sizes, device).expand(batch, -1, -1, -1)
        others.index_copy_(1, head_index(members, device), pattern)
    members = patterns.of(BLOCKS)
    if members:
        tiles = patterns.tiles(query, key, members)
        padded = F.pad(tiles, (0, 2 * columns - tiles.shape[3], 0, 2 * rows - tiles.shape[2]))
        blocks = padded.unflatten(3, (-1, 2)).any(4).unflatten(2, (-1, 2)).any(3)
        others.index_copy_(1, head_index(members, device), blocks)
    return others
