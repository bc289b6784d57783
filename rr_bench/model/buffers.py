"""What one step of greedy decoding reads and writes, at addresses that stay: keys, values, tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class BufferedLayer(CacheLayerMixin):
    """One layer's keys and values, ``[1, Hkv, capacity, D]``, at addresses that stay.

    Attributes:
        filled: tokens prefilled so far; ``None`` while decoding, when ``position`` says where to write
            and the whole buffers are handed over.
    """

    def __init__(self, capacity: int, position: Tensor) -> None:
        super().__init__()
        self.capacity, self.position = capacity, position
        self.filled: int | None = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, as the first keys and values are."""
        for name, like in (("keys", key_states), ("values", value_states)):
            batch, heads, _, dim = like.shape
            setattr(self, name, like.new_zeros(batch, heads, self.capacity, dim))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens; all that were prefilled, or the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        if self.filled is None:
            self.keys.index_copy_(2, self.position, key_states)
            self.values.index_copy_(2, self.position, value_states)
            return self.keys, self.values
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        self.keys[:, :, start : self.filled] = key_states
        self.values[:, :, start : self.filled] = value_states
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask covers, and where they start."""
        return (self.capacity if self.filled is None else self.filled + query_length), 0

    def get_seq_length(self) -> Any:
        """Tokens written; on the device while decoding."""
        return self.position if self.filled is None else self.filled

    def get_max_length(self) -> int:
        """Room for tokens."""
        return self.capacity


class Buffers:
    """What a step reads and writes, at addresses that stay.

    Attributes:
        cache: keys and values.
        ids: int64 ``[capacity + 1]``, prompt and answer.
        finite: bool ``[capacity + 1]``, whether the logits of the token there were.
        seen: bool ``[vocabulary]``, tokens that the repetition penalty is for.
        token: int64 ``[1, 1]``, the next to be read.
        position: int64 ``[1]``, where it stands.
        length: int64 ``[1]``, tokens it sees, itself included.
        logits: fp32 ``[vocabulary]`` of the last step, before the penalty.
    """

    def __init__(self, capacity: int, layers: int, vocabulary: int, device: torch.device) -> None:
        self.capacity = capacity
        self.ids = torch.zeros(capacity + 1, dtype=torch.long, device=device)
        self.finite = torch.ones(capacity + 1, dtype=torch.bool, device=device)
        self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.length = torch.ones(1, dtype=torch.long, device=device)
        self.logits = torch.zeros(vocabulary, dtype=torch.float32, device=device)
        self.layers = [BufferedLayer(capacity, self.position) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    def start(self, prompt: Tensor) -> None:
        """Be about to read the last token of ``prompt``, int64 ``[1, L]``; the others are cached."""
        tokens = prompt.shape[1]
        self.ids[:tokens] = prompt[0]
        self.seen.zero_()
        self.seen[prompt[0]] = True
        self.token.copy_(prompt[:, -1:])
        self.position.fill_(tokens - 1)
        self.length.fill_(tokens)
        for layer in self.layers:
            layer.filled = None
