"""The interface of the priors: autoregressive models of the tokens, one group of positions at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from imggen.models.transformer.generation_order import group_indices, halton, schedule, training_groups
from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import Head

MAX_CPU_BATCH = 16  # see TransformerBackend.min_batch
CPU_BATCH_COST = 8e9  # multiplications of one such batch, at most
STACKED_LAYERS = ("projection", "shared_kv")  # queries, keys and values: several matrices on top of one another


class Prior(nn.Module, ABC):
    """p(values | class): values are int64 (B, side², len(factors)), labels (B,); the label `classes` means no class.

    `factors` is the number of values of each channel of a token. Positions are indices of the side x side grid, row
    by row. A plan is a list of groups of positions: a group is sampled at once, given all groups before it.
    A subclass whose order is fixed sets `fixed_order` and overrides the methods about plans.
    """

    fixed_order: ClassVar[bool] = False

    def __init__(self, factors: tuple[int, ...], side: int, classes: int) -> None:
        super().__init__()
        self.factors, self.side, self.classes = factors, side, classes
        self.length = side * side
        self.head: Head

    # Plans

    @property
    def default_steps(self) -> int:
        """Number of groups unless --steps is given: two for each row of tokens."""
        return min(2 * self.side, self.length)

    def plan(self, steps: int | None = None, masked: list[int] | None = None) -> list[list[int]]:
        """The groups in which all positions are sampled, or those of `masked` after one group of all the others."""
        steps = steps or self.default_steps
        order = halton(self.side)
        if masked is None:
            return schedule(order, steps)
        to_sample = set(masked)
        unmasked = [position for position in order if position not in to_sample]
        # A mask over half of the image takes half of the steps.
        steps = max(1, round(steps * len(to_sample) / self.length))
        groups = schedule(tuple(position for position in order if position in to_sample), steps)
        return [unmasked, *groups] if unmasked else groups

    def plan_groups(self, steps: int, count: int, device: torch.device) -> Tensor:
        """The group of each position in the plan of `steps` steps, for `count` rows: (count, side²), int64."""
        return group_indices(self.plan(steps), self.length, device).expand(count, -1)

    def training_groups(self, count: int, device: torch.device) -> Tensor:
        """Random orders and groups to train with: the group of each position (count, side²), int64."""
        return training_groups(count, self.side, device)

    @property
    def min_batch(self) -> int:
        """Rows of a batch on a CPU, a power of two; fewer for a large prior, so that one image costs less than 16."""
        cost = self.length * sum(weight.numel() for weight in self.parameters())
        return 1 << min(MAX_CPU_BATCH, max(1, int(CPU_BATCH_COST / cost))).bit_length() - 1

    # Tokens of the tokenizer and values of the prior

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, side², d) of the tokenizer → values; here the same."""
        return tokens

    def to_tokens(self, values: Tensor) -> Tensor:
        """The inverse of `from_tokens`."""
        return values

    # All groups at once

    @abstractmethod
    def features(self, values: Tensor, labels: Tensor) -> Tensor:
        """What the network makes of the tokens of an image, for `Backend.features`: (B, side², width)."""

    @abstractmethod
    def states(self, values: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """Hidden states (B, side², width) for the head, each given the groups before its own; groups (B, side²)."""

    def log_probabilities(self, values: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """Log-probability in nats of each channel of each token, (B, side², d), given the groups before its own."""
        return self.head.log_probabilities(self.states(values, labels, groups), values)

    # Group by group

    @abstractmethod
    def begin(self, labels: Tensor, order: Tensor) -> KVCache:
        """A cache that holds the class; `order` (side²,) are the positions in the order of the plan."""

    @abstractmethod
    def predict(self, cache: KVCache, count: int) -> Tensor:
        """Hidden states (B, count, width) of the next `count` positions, given the tokens in the cache."""

    @abstractmethod
    def commit(self, cache: KVCache, values: Tensor) -> None:
        """Add the values (B, T, d) of the next T positions to the cache."""

    def hidden_weights(self) -> dict[int, list[Tensor]]:
        """The weights for Muon: matrices between hidden layers, without embeddings and layers that give logits.

        By the number of matrices that each weight stacks (query, key, value: 3).
        """
        logit_layers = {id(layer) for layer in self.head.logit_layers()}
        weights: dict[int, list[Tensor]] = {}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and id(layer) not in logit_layers:
                stacked = name.split(".")[-1] in STACKED_LAYERS
                matrices = layer.out_features // layer.in_features if stacked else 1
                weights.setdefault(matrices, []).append(layer.weight)
        return weights
