"""The any-order prior: a stream of committed tokens, and queries that know only where they are.

Half of the layers work on the tokens that are known, each group of them seeing itself and the groups before it. The
other half turn places into predictions by looking at what the first half made of the known tokens, all through the
same keys and values (Li et al. 2025, arXiv 2503.10568). So one network gives the probability of the tokens in any order
and any groups, draws a group at a time with cached keys, and fills any hole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import Head


class Prior(nn.Module, ABC):
    """p(tokens | class). Tokens are int64 (B, side², len(factors)), labels (B,); the label `classes` is "none".

    `factors` are the numbers of values of a token's channels.
    """

    def __init__(self, factors: tuple[int, ...], side: int, classes: int) -> None:
        super().__init__()
        self.factors, self.side, self.classes = factors, side, classes
        self.length = side * side
        self.head: Head

    @abstractmethod
    def states(self, tokens: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """(B, side², width): what each place knows of the tokens in groups before its own; groups (B, side²)."""

    @abstractmethod
    def begin(self, labels: Tensor, order: Tensor) -> KVCache:
        """A cache that holds the class, with room for all tokens; `order` (side²,) are the places as they will come."""

    @abstractmethod
    def predict(self, cache: KVCache, count: int) -> Tensor:
        """(B, count, width) of the next `count` places, from what the cache holds."""

    @abstractmethod
    def commit(self, cache: KVCache, tokens: Tensor) -> None:
        """Put the tokens (B, T, d) of the next T places into the cache."""

    def hidden(self) -> dict[int, list[Tensor]]:
        """The matrices between hidden layers, no tables and not those that give logits, by how many each is made of.

        Queries, keys and values are matrices of their own, one on top of another.
        """
        logits = {id(matrix) for matrix in self.head.last()}
        found: dict[int, list[Tensor]] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and id(layer) not in logits:
                several = name.split(".")[-1] in ("project", "shared")
                found.setdefault(layer.out_features // layer.in_features if several else 1, []).append(layer.weight)
        return found

    def log_probabilities(self, tokens: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """Of every channel of every token, (B, side², d), nats, each given the groups before its own."""
        return self.head.log_probabilities(self.states(tokens, labels, groups), tokens)
