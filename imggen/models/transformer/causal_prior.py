"""The textbook's prior: a causal transformer (Vaswani et al. 2017, arXiv 1706.03762) over codes in raster order."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from imggen.models.global_batch import dropout
from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import SoftmaxHead, modules_of
from imggen.models.transformer.prior import MAX_CPU_BATCH, Prior
from imggen.models.transformer.quantizer import Quantizer


def sinusoidal_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Position embeddings (length, width): sines and cosines of decreasing frequency, interleaved."""
    positions = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    frequencies = 10_000 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.stack([(positions * frequencies).sin(), (positions * frequencies).cos()], -1).flatten(1)


class Block(nn.Module):
    """A decoder layer: attention and feed-forward, each with a norm before it, dropout and a residual connection."""

    def __init__(self, width: int, heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.heads, self.dropout_rate = heads, dropout_rate
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) → query, key and value, each (B, T, heads, head_width)."""
        query, key, value = self.projection(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query, key, value

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
        """Query (B, T, heads, head_width), keys and values (B, heads, S, head_width) → (B, T, width).

        The scores are divided by √(width/heads).
        """
        attended = scaled_dot_product_attention(query.transpose(1, 2), keys, values, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual connections and feed-forward: x and what attention gives (B, T, width) → the block's output."""
        x = x + dropout(attended, self.dropout_rate, self.training)
        forward = self.down(relu(self.up(self.mlp_norm(x))))
        return x + dropout(forward, self.dropout_rate, self.training)


class CausalPrior(Prior):
    """Decoder-only transformer with one softmax over all codes. The class takes the place of a start token.

    `levels` are those of the tokenizer's channels; a value (B, side², 1) is a whole code.
    """

    fixed_order: ClassVar[bool] = True

    def __init__(
        self, levels: tuple[int, ...], side: int, classes: int, *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        codes = math.prod(levels)
        super().__init__((codes,), side, classes)
        self.quantizer = Quantizer(levels)
        self.width, self.dropout_rate = width, dropout
        self.token_embedding, self.class_embedding = nn.Embedding(codes, width), nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width)
        self.head = SoftmaxHead(width, codes)
        for embedding in (self.token_embedding, self.class_embedding):
            nn.init.normal_(embedding.weight, 0.0, width**-0.5)

    # Raster order, one token at a time

    @property
    def default_steps(self) -> int:
        """One step for each token."""
        return self.length

    def plan(self, steps: int | None = None, masked: list[int] | None = None) -> list[list[int]]:
        """All positions one by one in raster order, whatever is masked."""
        return [[position] for position in range(self.length)]

    def training_groups(self, count: int, device: torch.device) -> Tensor:
        """Raster order for every row."""
        return torch.arange(self.length, device=device).expand(count, -1)

    @property
    def min_batch(self) -> int:
        """A step has one token a row, so reading the weights takes longer than computing: always the largest batch."""
        return MAX_CPU_BATCH

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, side², d) → codes (B, side², 1)."""
        return self.quantizer.to_codes(tokens).unsqueeze(-1)

    def to_tokens(self, values: Tensor) -> Tensor:
        """Codes (B, side², 1) → tokens (B, side², d)."""
        return self.quantizer.from_codes(values[..., 0])

    # The transformer

    def states(self, values: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """Hidden states (B, side², width) of all positions. Raises ValueError if `groups` is not raster order."""
        if not torch.equal(groups, torch.arange(self.length, device=groups.device).expand_as(groups)):
            raise ValueError("the causal prior supports raster order only")
        embeddings = [self.class_embedding(labels)[:, None], self.token_embedding(values[:, :-1, 0])]
        x = self._add_positions(torch.cat(embeddings, 1), 0)
        for block in modules_of(self.blocks, Block):
            query, key, value = block.query_key_value(x)
            x = block.add(x, block.attend(query, key.transpose(1, 2), value.transpose(1, 2), causal=True))
        return self.final_norm(x)

    def features(self, values: Tensor, labels: Tensor) -> Tensor:
        """The states after half of the blocks, where each token has seen those before it in raster order."""
        x = self._add_positions(
            torch.cat([self.class_embedding(labels)[:, None], self.token_embedding(values[..., 0])], 1), 0
        )
        for block in modules_of(self.blocks, Block)[: max(1, len(self.blocks) // 2)]:
            query, key, value = block.query_key_value(x)
            x = block.add(x, block.attend(query, key.transpose(1, 2), value.transpose(1, 2), causal=True))
        return x[:, 1:]

    def begin(self, labels: Tensor, order: Tensor) -> KVCache:
        """A cache that holds the class."""
        start = self.class_embedding(labels)[:, None]
        block = modules_of(self.blocks, Block)[0]
        shape = (labels.shape[0], block.heads, self.length + 1, self.width // block.heads)
        cache = KVCache(len(self.blocks), shape, block.out(start[:1]), order)
        self._append(cache, start)
        return cache

    def predict(self, cache: KVCache, count: int) -> Tensor:
        """The hidden state (B, 1, width) of the next position. Raises ValueError for more than one position."""
        if count != 1:
            raise ValueError("the causal prior predicts one token at a time")
        return cache.last_hidden

    def commit(self, cache: KVCache, values: Tensor) -> None:
        """Add one code (B, 1, 1) to the cache."""
        if cache.filled < self.length:  # nothing is predicted after the last token
            self._append(cache, self.token_embedding(values[..., 0]))

    def _add_positions(self, x: Tensor, first: int) -> Tensor:
        """Embeddings (B, T, width) times √width, plus the positions from `first` on."""
        positions = sinusoidal_positions(self.length + 1, self.width, x.device)[first : first + x.shape[1]]
        return dropout(x * self.width**0.5 + positions, self.dropout_rate, self.training)

    def _append(self, cache: KVCache, x: Tensor) -> None:
        """Run embeddings (B, T, width) through all blocks, adding their keys and values to the cache."""
        x = self._add_positions(x, cache.filled)
        for index, block in enumerate(modules_of(self.blocks, Block)):
            query, key, value = block.query_key_value(x)
            cache.write(index, key, value)
            x = block.add(x, block.attend(query.to(key.dtype), *cache.read(index, x.shape[1]), causal=False))
        cache.advance(x.shape[1])
        cache.last_hidden = self.final_norm(x)
