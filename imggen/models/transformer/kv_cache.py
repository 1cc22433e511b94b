"""The cache of a prior while it samples: keys and values of the tokens so far, in memory that is allocated once."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values of `layers` layers, each (batch, heads, length, head_width): the class first, then the tokens.

    `order` (side²,) are the positions of the tokens in the order of generation. `like` gives dtype and device.
    All shapes follow from the plan and nothing is read back to the host, so that a CUDA graph can record its use.
    """

    class_embedding: Tensor  # (B, 1, width): set by the any-order prior
    last_hidden: Tensor  # (B, 1, width): set by the causal prior, the state that predicts the next token

    def __init__(self, layers: int, shape: tuple[int, int, int, int], like: Tensor, order: Tensor) -> None:
        memory = torch.empty(layers, 2, *shape, dtype=like.dtype, device=like.device)
        self.layers = [layer.unbind() for layer in memory]
        self.order = order
        self.filled = 0

    @property
    def num_tokens(self) -> int:
        """Tokens in the cache: all entries but the class."""
        return self.filled - 1

    def next_positions(self, count: int) -> Tensor:
        """The positions (count,) of the next tokens."""
        return self.order[self.num_tokens : self.num_tokens + count]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (B, T, heads, head_width) behind the filled part; `advance` adds them to it."""
        for memory, new in zip(self.layers[layer], (keys, values), strict=True):
            memory.narrow(2, self.filled, new.shape[1]).copy_(new.transpose(1, 2))

    def read(self, layer: int, new: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, head_width) of the filled part and of `new` entries just written."""
        keys, values = self.layers[layer]
        return keys.narrow(2, 0, self.filled + new), values.narrow(2, 0, self.filled + new)

    def advance(self, count: int) -> None:
        """Count the last `count` entries written as filled, in every layer."""
        self.filled += count
