"""Keys and values of committed tokens, in memory that is laid out once."""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Room for `length` tokens of some layers; `filled` of them are there.

    Nothing grows and nothing is read back: every shape follows from the schedule alone.
    """

    def __init__(self, layers: int, rows: int, heads: int, length: int, head: int, like: Tensor) -> None:
        self.memory = torch.empty(layers, 2, rows, heads, length, head, dtype=like.dtype, device=like.device)
        self.filled = 0
        self.last: Tensor | None = None

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put (B, T, heads, head) behind what is there; `advance` makes it count."""
        end = self.filled + keys.shape[1]
        self.memory[layer, 0, :, :, self.filled : end] = keys.transpose(1, 2)
        self.memory[layer, 1, :, :, self.filled : end] = values.transpose(1, 2)

    def read(self, layer: int, new: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, head) of what is there, and of the `new` ones just written."""
        keys, values = self.memory[layer, :, :, :, : self.filled + new]
        return keys, values

    def advance(self, count: int) -> None:
        """`count` tokens more are there, in every layer."""
        self.filled += count
