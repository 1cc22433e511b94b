"""The textbook's prior: a causal transformer (Vaswani et al. 2017, arXiv 1706.03762) over tokens in raster order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu, scaled_dot_product_attention

from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import Softmax
from imggen.models.transformer.prior import Prior


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions (length, width): sines and cosines of falling frequency, beside each other."""
    places = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    speeds = 10_000 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.stack([(places * speeds).sin(), (places * speeds).cos()], -1).flatten(1)


class Block(nn.Module):
    """Pre-norm attention and feed-forward layers, residual, with dropout."""

    def __init__(self, width: int, heads: int, rate: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.before_attention, self.before_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the stream (B, T, width), each (B, T, heads, head)."""
        found = self.project(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = found.unbind(2)
        return query, key, value

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, *, causal: bool) -> Tensor:
        """(B, T, heads, head) on (B, heads, S, head) → (B, T, width), scaled by √(width/heads)."""
        found = scaled_dot_product_attention(query.transpose(1, 2), keys, values, is_causal=causal)
        attended: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return attended

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream after this block."""
        x = x + dropout(attended, self.rate, self.training)
        forward = self.down(relu(self.up(self.before_forward(x))))
        return x + dropout(forward, self.rate, self.training)


class CausalPrior(Prior):
    """One softmax over all codes: `factors` is (codes,). The class stands where a sentence's start would."""

    def __init__(
        self, factors: tuple[int, ...], side: int, classes: int, *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__(factors, side, classes)
        (codes,) = factors
        self.width, self.rate = width, dropout
        self.token, self.label = nn.Embedding(codes, width), nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.last_norm = nn.LayerNorm(width)
        self.head = Softmax(width, codes)
        for table in (self.token, self.label):
            nn.init.normal_(table.weight, 0.0, width**-0.5)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _embed(self, x: Tensor, first: int) -> Tensor:
        """Embeddings (B, T, width) times √width plus positions from `first` on."""
        places = sinusoids(self.length + 1, self.width, x.device)[first : first + x.shape[1]]
        return dropout(x * self.width**0.5 + places, self.rate, self.training)

    def states(self, tokens: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """See `Prior`. Raises ValueError when `groups` are any but one by one in raster order."""
        if not torch.equal(groups, torch.arange(self.length, device=groups.device).expand_as(groups)):
            raise ValueError("the textbook's transformer knows raster order alone")
        x = self._embed(torch.cat([self.label(labels)[:, None], self.token(tokens[:, :-1, 0])], 1), 0)
        for block in self._blocks():
            query, key, value = block.parts(x)
            x = block.add(x, block.attend(query, key.transpose(1, 2), value.transpose(1, 2), causal=True))
        found: Tensor = self.last_norm(x)
        return found

    def begin(self, labels: Tensor, order: Tensor) -> KVCache:
        """See `Prior`."""
        label = self.label(labels)[:, None]
        block = self._blocks()[0]
        head = self.width // block.heads
        like = block.out(label[:1])
        cache = KVCache(len(self.blocks), len(labels), block.heads, self.length + 1, head, like, order)
        self._push(cache, label)
        return cache

    def predict(self, cache: KVCache, count: int) -> Tensor:
        """See `Prior`. Raises ValueError for more than one place."""
        if count != 1 or cache.last is None:
            raise ValueError("the textbook's transformer draws one token at a time")
        return cache.last

    def commit(self, cache: KVCache, tokens: Tensor) -> None:
        """See `Prior`."""
        if cache.filled < self.length:  # nothing comes after the last token
            self._push(cache, self.token(tokens[..., 0]))

    def _push(self, cache: KVCache, x: Tensor) -> None:
        x = self._embed(x, cache.filled)
        for index, block in enumerate(self._blocks()):
            query, key, value = block.parts(x)
            cache.write(index, key, value)
            x = block.add(x, block.attend(query.to(key.dtype), *cache.read(index, x.shape[1]), causal=False))
        cache.advance(x.shape[1])
        cache.last = self.last_norm(x)
