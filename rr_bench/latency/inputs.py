"""What is timed: queries, keys and values, random or captured, and block masks of a set density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from method.attention import SparsePrefill
from method.blocks import BLOCK, BlockMask, causal_map
from method.density import causal_blocks, density_by_head
from method.keep import NO_KEEP, RR_KEEP
from rr_bench.config.errors import ConfigError
from rr_bench.config.schema import RunSettings
from rr_bench.latency.baselines import Absent
from rr_bench.model.dense_observer import Tap
from rr_bench.plan.cells import ModelFacts, make_plan
from rr_bench.plan.model_facts import Device
from rr_bench.run.prompt import Prompt
from rr_bench.run.session import Session

Tensors = tuple[Tensor, Tensor, Tensor]

DENSITY_SLACK = 0.02
"""A random mask may miss the density that its row names by this much."""


@dataclass(frozen=True)
class Shape:
    """One prefill of a decoder layer's attention: batch 1, queries as long as keys.

    Attributes:
        length: tokens.
        heads: query heads.
        kv_heads: KV heads.
        dim: head size.
        dtype: of queries, keys and values.
    """

    length: int
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    dtype: torch.dtype = torch.bfloat16

    @property
    def scale(self) -> float:
        """Factor on the logits."""
        return self.dim**-0.5


def input_dtype(setting: str, device: Device) -> torch.dtype:
    """``auto`` is bf16 on a GPU and fp32 on a CPU.

    Raises:
        ConfigError: an unknown dtype.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if setting == "auto":
        return torch.bfloat16 if device.kind == "cuda" else torch.float32
    if setting not in names:
        raise ConfigError(f"dtype={setting}: auto, {', '.join(names)}")
    return names[setting]


def random_inputs(shape: Shape, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Fresh random query, key and value, with the strides transformers gives them.

    Never zeros: they make products run faster than real data does.
    """
    generator = torch.Generator(device=device).manual_seed(seed)

    def draw(heads: int) -> Tensor:
        wanted = (1, shape.length, heads, shape.dim)
        drawn = torch.randn(wanted, generator=generator, device=device, dtype=torch.float32)
        return drawn.to(shape.dtype).transpose(1, 2)

    query, key, value = draw(shape.heads), draw(shape.kv_heads), draw(shape.kv_heads)
    return query, key.contiguous(), value.contiguous()


def random_mask(shape: Shape, density: float, device: torch.device, seed: int = 0) -> BlockMask:
    """A mask that keeps ``density`` of the causal blocks: RRAttention's always-kept ones, and others
    drawn evenly and independently for every head.
    """
    length = shape.length
    if density >= 1:
        blocks = BlockMask.causal(1, shape.heads, length, length, device)
        return BlockMask(blocks.indices.contiguous(), blocks.counts.contiguous(), length, length)
    forced = RR_KEEP.forced(length, length, device)
    share = float(forced.sum()) / causal_blocks(length, length)
    # Short prompts may be kept whole already.
    chance = max(0.0, (density - share) / (1 - share)) if share < 1 else 0.0
    generator = torch.Generator(device=device).manual_seed(seed)
    chosen = torch.empty(1, shape.heads, *forced.shape, dtype=torch.bool, device=device)
    for head in range(shape.heads):
        drawn = torch.rand(forced.shape, generator=generator, device=device) < chance
        chosen[0, head] = (drawn | forced) & causal_map(length, length, device)
    return BlockMask.from_map(chosen, length, length)


def attention_flops(mask: BlockMask, dim: int) -> float:
    """Floating-point operations of attention over the visible token pairs of the kept blocks.

    Counted as for dense causal attention: of a block on the diagonal only the lower triangle.
    For masks with as many queries as keys; a ragged end is counted as if it were whole.
    """
    rows = torch.arange(mask.rows, device=mask.counts.device)
    last = (mask.counts.long() - 1).clamp(min=0)[..., None]
    newest = mask.indices.gather(-1, last)[..., 0]
    diagonal = ((newest == rows) & (mask.counts > 0)).sum()
    whole = mask.counts.sum(dtype=torch.int64) - diagonal
    pairs = float(whole) * BLOCK * BLOCK + float(diagonal) * BLOCK * (BLOCK + 1) / 2
    return 4.0 * dim * pairs


def dense_flops(shape: Shape) -> float:
    """Floating-point operations of dense causal attention."""
    return 4.0 * shape.dim * shape.heads * shape.length * (shape.length + 1) / 2


@dataclass(eq=False)
class Inputs:
    """One query, key and value, made on first use, and their names in the table.

    Attributes:
        model: the shape's or the model's name.
        kind: ``random`` or ``captured``.
        length: tokens asked for.
        heads: query heads.
        layer: the layer that they are taken to belong to: methods may leave the first ones dense.
        make: draws or captures them: ``[1, Hq, L, D]`` and twice ``[1, Hkv, L, D]``.
        truth: a mask and what it should give, the last that the gate worked out.
    """

    model: str
    kind: str
    length: int
    heads: int
    layer: int
    make: Callable[[], Tensors]
    truth: tuple[BlockMask, Tensor] | None = None
    _masks: dict[float, BlockMask] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> Tensors:
        """Query, key and value."""
        return self.make()

    @cached_property
    def shape(self) -> Shape:
        """Their shape."""
        query, key, _ = self.tensors
        return Shape(query.shape[2], query.shape[1], key.shape[1], query.shape[3], query.dtype)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.tensors[0].device

    def mask(self, density: float) -> BlockMask:
        """A random mask of a density; the same one every time.

        Raises:
            Absent: blocks that are always kept are more than that already.
        """
        if density not in self._masks:
            mask = random_mask(self.shape, density, self.device)
            true = float(density_by_head(mask).mean())
            if abs(true - density) > DENSITY_SLACK:
                raise Absent(f"{self.shape.length} tokens are too few: their mask keeps {true:.2f}")
            self._masks[density] = mask
        return self._masks[density]


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

    def prompt(self, length: int) -> tuple[Session, Prompt]:
        """The loaded model, and a prompt of about ``length`` tokens.

        Raises:
            CheckpointError: the model does not load, or is not made for this length.
            ValueError: the task cannot be used.
        """
        settings = replace(self._settings, lengths=[length])
        plan = make_plan(settings)
        if plan.problems:
            raise ValueError(plan.problems[0])
        if self._session is None:
            self._session = Session(settings, self._facts)
        return self._session, self._session.prompts(plan.cells[0])[0]

    def tensors(self, length: int) -> Tensors:
        """Query, key and value of a prompt of about ``length`` tokens.

        Raises:
            CheckpointError: the model does not load, or is not made for this length.
            ValueError: the task cannot be used.
        """
        if length not in self._tensors:
            session, prompt = self.prompt(length)
            capture = Capture(self.layer())
            session.prefill(prompt, SparsePrefill(capture, NO_KEEP))
            if not capture.found:
                raise ValueError(
                    f"layer {self.layer()} of {self._facts.name} is no full-attention layer"
                )
            self._tensors[length] = capture.found[0]
        return self._tensors[length]
