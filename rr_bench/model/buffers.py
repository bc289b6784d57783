"""What one step of greedy decoding reads and writes, at addresses that stay: keys, values, tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin


class BufferedLayer(CacheLayerMixin):
    """One layer's keys and values, ``[rows, Hkv, capacity, D]``, at addresses that stay.

    Attributes:
        row: the row that is being prefilled; ``None`` while decoding, when every row writes where
            ``position`` says and the whole buffers are handed over.
        filled: tokens of that row so far.
    """

    def __init__(self, rows: int, capacity: int, position: Tensor) -> None:
        super().__init__()
        self.rows, self.capacity, self.position = rows, capacity, position
        self.row: int | None = 0
        self.filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, as the first keys and values are."""
        for name, like in (("keys", key_states), ("values", value_states)):
            _, heads, _, dim = like.shape
            setattr(self, name, like.new_zeros(self.rows, heads, self.capacity, dim))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens; the prefilled ones of the row, or the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.row is None:
            at = self.position[:, None, None, None]
            self.keys.scatter_(2, at.expand_as(key_states), key_states)
            self.values.scatter_(2, at.expand_as(value_states), value_states)
            return self.keys, self.values
        one, start = slice(self.row, self.row + 1), self.filled
        self.filled += key_states.shape[2]
        self.keys[one, :, start : self.filled] = key_states
        self.values[one, :, start : self.filled] = value_states
        return self.keys[one, :, : self.filled], self.values[one, :, : self.filled]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask covers, and where they start."""
        return (self.capacity if self.row is None else self.filled + query_length), 0

    def get_seq_length(self) -> Any:
        """Tokens written; on the device while decoding."""
        return self.position if self.row is None else self.filled

    def get_max_length(self) -> int:
        """Room for tokens."""
        return self.capacity


def row_bytes(text: PreTrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values per token of a row, by the config of a model's text part."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * dim * dtype.itemsize)


class Buffers:
    """What a step reads and writes, at addresses that stay.

    A row that has no prompt, or whose answer has ended, is parked: it goes on with the others, as the
    step is the same whatever the rows hold, but over one token.

    Attributes:
        cache: keys and values.
        token: int64 ``[rows, 1]``, the next to be read.
        position: int64 ``[rows]``, where it stands.
        length: int64 ``[rows]``, tokens it sees, itself included.
        seen: bool ``[rows, vocabulary]``, tokens that the repetition penalty is for.
        step: int64 ``[1]``, steps since :meth:`start`.
        ids: int64 ``[capacity, rows]``, the new token of each step.
        finite: bool ``[capacity, rows]``, whether its logits were.
        logits: fp32 ``[rows, vocabulary]`` of the last step, before the penalty.
    """

    def __init__(
        self, rows: int, capacity: int, layers: int, vocabulary: int, device: torch.device
    ) -> None:
        self.rows, self.capacity = rows, capacity
        self.token = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(rows, dtype=torch.long, device=device)
        self.length = torch.ones(rows, dtype=torch.long, device=device)
        self.seen = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.ids = torch.zeros(capacity, rows, dtype=torch.long, device=device)
        self.finite = torch.ones(capacity, rows, dtype=torch.bool, device=device)
        self.logits = torch.zeros(rows, vocabulary, dtype=torch.float32, device=device)
        self.layers = [BufferedLayer(rows, capacity, self.position) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    def fill(self, row: int) -> Cache:
        """The cache, to be prefilled with all tokens but the last of a row's prompt."""
        for layer in self.layers:
            layer.row, layer.filled = row, 0
        return self.cache

    def start(self, prompts: list[Tensor]) -> None:
        """Be about to read the last tokens of prompts, int64 ``[1, L]``, whose others are cached.

        Args:
            prompts: of the first rows; the others are parked.
        """
        for row in range(len(prompts), self.rows):
            self.park(row)
        for row, prompt in enumerate(prompts):
            tokens = prompt.shape[1]
            self.token[row] = prompt[0, -1]
            self.position[row] = tokens - 1
            self.length[row] = tokens
            self.seen[row] = False
            self.seen[row, prompt[0]] = True
        self.step.zero_()
        for layer in self.layers:
            layer.row = None

    def park(self, row: int) -> None:
        """Let a row do no more than it must."""
        self.position[row] = 0
        self.length[row] = 1
