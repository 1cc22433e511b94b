"""Keys and values of committed tokens, in memory that is laid out once."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Room for `length` tokens of some layers, of which `filled` are there: the class, then those of `order`'s places.

    Nothing grows and nothing is read back: every shape follows from the schedule alone.
    """

    def __init__(self, layers: int, rows: int, heads: int, length: int, head: int, like: Tensor, order: Tensor) -> None:
        memory = torch.empty(layers, 2, rows, heads, length, head, dtype=like.dtype, device=like.device)
        self.layers = [layer.unbind() for layer in memory]
        self.order = order
        self.filled = 0
        self.last: Tensor | None = None

    @property
    def done(self) -> int:
        """Places of `order` whose tokens are there: all that is but the class."""
        return self.filled - 1

    def next(self, count: int) -> Tensor:
        """The `count` places that come next."""
        return self.order[self.done : self.done + count]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put (B, T, heads, head) behind what is there; `advance` makes it count."""
        for memory, new in zip(self.layers[layer], (keys, values), strict=True):
            memory.narrow(2, self.filled, new.shape[1]).copy_(new.transpose(1, 2))

    def read(self, layer: int, new: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, head) of what is there, and of the `new` ones just written."""
        keys, values = self.layers[layer]
        return keys.narrow(2, 0, self.filled + new), values.narrow(2, 0, self.filled + new)

    def advance(self, count: int) -> None:
        """`count` tokens more are there, in every layer."""
        self.filled += count
