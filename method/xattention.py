"""XAttention: antidiagonal scores and Top-τ block selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from method.base import Knob, Method
from method.blocks import BLOCK, BlockMask
from method.keep import KeepPolicy
from method.ops.antidiagonal.torch import antidiagonal_scores
from method.ops.checks import ESTIMATORS, check_choices, check_stride, uses_triton
from method.ops.top_p.torch import SELECTORS, select_mask
from method.tables import layer_entry, read_layers


@dataclass(frozen=True)
class XAttention(Method):
    """XAttention (arXiv 2503.16428, ICML 2025), a training-free block-sparse prefill.

    Rule. Attention is cut into cells of ``S x S`` tokens. A cell's logit is the sum along its
    antidiagonal, query ``S-1-s`` with key ``s``, scaled by ``scale / S``. A causal softmax over
    the cells of every query stride follows, and the probabilities are added up to (query block,
    key block) scores. Per query block the highest-scored key blocks are kept until a share τ of
    the score is held; always-kept blocks pay first, and the authors' code keeps one block more in
    the first chunk of the prompt (``selector``, ``chunk``). Estimating costs O(L² / S) per head,
    ``S`` times what RRAttention's estimate costs.

    Defaults: blocks of 128, S = 8 and τ = 0.9, the default of the authors' estimator. S has none
    there; their evaluation script defaults to 16, and the paper reports 4, 8 and 16. They advise
    τ = 0.9 or 0.95 where no table of thresholds exists. Sink and diagonal are always kept; the
    last query block's row is not (RRAttention's rule), except under ``keep=equal``.

    Known departures:
        * Logits and block scores stay in fp32; the authors round both to 16 bits. Selection is in
          fp64, as theirs.
        * Equal scores go to the earlier block (unspecified in the authors' code).
        * Fewer queries than keys are supported: query strides start at the first query, so chunks
          that start at multiples of 128 choose the same blocks as an uncut prompt. The authors'
          code takes the shift from padded lengths, and sees a first chunk only where a prompt is
          prefilled in one call; here rows are counted from the prompt's start in every call.
        * τ = 1 is dense exactly.
        * The authors' dynamic programme for per-head thresholds was never released; a table, such
          as the ones they ship for Llama-3.1-8B, can be given as a file.

    Attributes:
        tau: share of the estimated mass to keep, in (0, 1].
        stride: ``S``, one of 4, 8, 16, 32, 64.
        selector: "released" (what the authors' code computes), "forced_first" or "top_p"; see
            :mod:`method.ops.top_p.torch`.
        chunk: under "released", tokens from the prompt's start whose rows keep one block more,
            a multiple of 128; None for the chunk of the authors' prefill wrapper,
            :func:`wrapper_chunk`. Later rows follow "forced_first".
        thresholds: JSON file with a list of τ per head for every layer, which then takes the
            place of ``tau``; None for one τ.
        dense_layers: this many first layers stay dense (the authors use 3 for video).
        estimator: "auto" (Triton on a GPU, PyTorch elsewhere), "triton" or "torch".

    Raises:
        ValueError: a setting is out of range or unknown, or the table is not one.
    """

    paper_keep: ClassVar[KeepPolicy] = KeepPolicy(sink=True, diagonal=True, last_row=False)
    knob: ClassVar[Knob | None] = Knob("tau", 0.01, 1.0)

    tau: float = 0.9
    stride: int = 8
    selector: str = "released"
    chunk: int | None = None
    thresholds: str | None = None
    dense_layers: int = 0
    estimator: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"xattention: tau={self.tau} is not in (0, 1], the share of mass to keep")
        check_stride("xattention", self.stride)
        if self.dense_layers < 0:
            raise ValueError(f"xattention: dense_layers={self.dense_layers} is negative")
        if self.chunk is not None and (self.chunk < BLOCK or self.chunk % BLOCK):
            raise ValueError(
                f"xattention: chunk={self.chunk} is not a multiple of the block, {BLOCK}; null for the "
                "authors'"
            )
        check_choices("xattention", self, selector=SELECTORS, estimator=ESTIMATORS)
        for row in self._table:
            if not isinstance(row, list) or not all(_is_share(tau) for tau in row):
                raise ValueError(
                    f"xattention: thresholds={self.thresholds} needs a list of numbers in (0, 1] for "
                    f"every layer, found {str(row)[:60]}"
                )

    @cached_property
    def _table(self) -> list[list[float]]:
        return [] if self.thresholds is None else read_layers(self.thresholds, "xattention: thresholds")

    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Estimate, then select; see :meth:`method.base.Method.select`."""
        batch, heads, q_len, _ = query.shape
        k_len, tau = key.shape[2], self._taus(layer, heads)
        if layer < self.dense_layers or tau == 1:
            return BlockMask.causal(batch, heads, q_len, k_len, query.device)
        scores = self.scores(query, key, scale=scale)
        first_rows = (wrapper_chunk(k_len) if self.chunk is None else self.chunk) // BLOCK
        return select_mask(
            scores, q_len, k_len, tau=tau, selector=self.selector, keep=keep, released_rows=first_rows
        )

    def _taus(self, layer: int, heads: int) -> float | Sequence[float]:
        """The share to keep: one for all heads, or one for each."""
        if self.thresholds is None:
            return self.tau
        row: list[float] = layer_entry(self._table, layer, self.thresholds, "xattention: thresholds")
        if len(row) != heads:
            raise ValueError(
                f"xattention: thresholds={self.thresholds} has {len(row)} heads in layer {layer}, the "
                f"model has {heads}: the file belongs to another model"
            )
        return row

    def scores(self, query: Tensor, key: Tensor, *, scale: float) -> Tensor:
        """Block scores ``[B, Hq, rows, columns]``, from the estimator that ``estimator`` names."""
        if not uses_triton(self.estimator, query):
            estimate: Callable[..., Tensor] = antidiagonal_scores
        else:
            # Imported here so that the method can be used where Triton is not installed.
            from method.ops.antidiagonal.triton import antidiagonal_scores_triton

            estimate = antidiagonal_scores_triton
        return estimate(query, key, scale=scale, stride=self.stride)


def wrapper_chunk(k_len: int) -> int:
    """Query tokens that the authors' prefill wrapper estimates at a time.

    The whole prompt up to 16K tokens; from there on it halves as the length doubles, down to 2048
    (their own formula, with the length rounded up to a power of two).
    """
    rounded = 1 << (k_len - 1).bit_length()
    return max(2048, min(rounded, 2**28 // rounded))


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value <= 1
