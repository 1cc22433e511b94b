"""The prior whose tokens come in any order: its layers, and the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import Chained, Gated, RMSNorm, attend, linear, rotate, rotation, turns
from imggen.models.transformer.prior import Prior


class Layer(nn.Module):
    """Normalised attention and a gated layer, each added to the stream.

    With `shared`, keys and values come from elsewhere, the same for all layers.
    """

    def __init__(self, width: int, heads: int, rate: float, *, shared: bool) -> None:
        super().__init__()
        self.heads, self.rate, self.shared = heads, rate, shared
        self.before_attention, self.before_gate = RMSNorm(width), RMSNorm(width)
        self.project = linear(width, width if shared else 3 * width)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = None if shared else RMSNorm(width // heads)
        self.out = linear(width, width, scale=0.5)
        self.gated = Gated(width)

    def queries(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Queries, and unless shared keys and values, of the stream (B, T, width); each (B, T, heads, head)."""
        found = self.project(self.before_attention(x)).unflatten(-1, (-1, self.heads, x.shape[-1] // self.heads))
        query = rotate(self.query_norm(found[:, :, 0]), turn)
        if self.key_norm is None:
            return query, None, None
        return query, rotate(self.key_norm(found[:, :, 1]), turn), found[:, :, 2]

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream (B, T, width) after this layer."""
        x = x + self._drop(self.out(attended))
        return x + self._drop(self.gated(self.before_gate(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, self.training) if self.rate else x


class AnyOrderPrior(Prior):
    """`depth`/2 layers for the tokens, `depth`/2 for the queries."""

    def __init__(
        self, factors: tuple[int, ...], side: int, classes: int, *, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__(factors, side, classes)
        self.heads = heads
        self.label = nn.Embedding(classes + 1, width)
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in factors)
        # Rotations tell how far two places are apart; where they are in the picture, only these do.
        self.known_place, self.asked_place = nn.Embedding(side * side, width), nn.Embedding(side * side, width)
        self.content = nn.ModuleList(Layer(width, heads, dropout, shared=False) for _ in range(depth // 2))
        self.asking = nn.ModuleList(Layer(width, heads, dropout, shared=True) for _ in range(depth // 2))
        self.shared_norm, self.shared = RMSNorm(width), linear(width, 2 * width)
        self.key_norm = RMSNorm(width // heads)
        self.last_norm = RMSNorm(width)
        self.head = Chained(width, factors)
        for table in (self.label, *self.tables, self.known_place, self.asked_place):
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, 0.0, 0.5)

    def _turns(self, places: Tensor, *, with_label: bool = False) -> tuple[Tensor, Tensor]:
        head = self.label.embedding_dim // self.heads
        angles = rotation(self.side, head, places.device)[places]
        if with_label:
            angles = torch.cat([torch.zeros_like(angles[:1]), angles])
        return turns(angles)

    def embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens (B, T, d) as the content stream takes them, (B, T, width); `places` (T, width) of `known_place`."""
        x = places
        for channel, table in enumerate(self.tables):
            x = x + table(tokens[..., channel])
        return x

    def layers(self, layers: nn.ModuleList) -> list[Layer]:
        """The layers of `content` or of `asking`."""
        return [layer for layer in layers if isinstance(layer, Layer)]

    def _share(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The content stream (B, T, width) → the keys and values of all queries, (B, T, heads, head) each."""
        both = self.shared(self.shared_norm(x)).unflatten(-1, (2, self.heads, -1))
        return rotate(self.key_norm(both[:, :, 0]), turn), both[:, :, 1]

    def states(self, tokens: Tensor, labels: Tensor, groups: Tensor, places: Tensor | None = None) -> Tensor:
        """See `Prior`; all groups at once. Of some `places` (T,) alone, tokens are (B, T, d) and groups (B, T)."""
        found: Tensor = self.last_norm(self.stream(tokens, labels, groups, places))
        return found

    def stream(self, tokens: Tensor, labels: Tensor, groups: Tensor, places: Tensor | None = None) -> Tensor:
        """`states` before the last norm."""
        every = torch.arange(self.length, device=tokens.device) if places is None else places
        label = self.label(labels).unsqueeze(1)
        x = torch.cat([label, self.embed(tokens, self.known_place(every))], 1)
        turn = self._turns(every, with_label=True)
        known = torch.cat([torch.full_like(groups[:, :1], -1), groups], 1)[:, None, None]
        among, before = (
            torch.zeros(allowed.shape, device=x.device).masked_fill_(~allowed, -torch.inf)
            for allowed in (known <= known.transpose(2, 3), known < groups[:, None, :, None])
        )
        for layer in self.layers(self.content):
            query, key, value = layer.queries(x, turn)
            assert key is not None and value is not None
            x = layer.add(x, attend(query, key.transpose(1, 2), value.transpose(1, 2), among.to(query.dtype)))
        key, value = self._share(x, turn)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        y: Tensor = self.asked_place(every) + label
        turn = self._turns(every)
        for layer in self.layers(self.asking):
            query, _, _ = layer.queries(y, turn)
            y = layer.add(y, attend(query, key, value, before.to(query.dtype)))
        return y

    def begin(self, labels: Tensor, order: Tensor) -> KVCache:
        """See `Prior`; the queries' keys and values are the last layer's."""
        label = self.label(labels).unsqueeze(1)
        head = label.shape[-1] // self.heads
        like = self.shared(label[:1])  # of the type that the matrices give, under autocast too
        cache = KVCache(len(self.content) + 1, len(labels), self.heads, self.length + 1, head, like, order)
        cache.last = label
        self._push(cache, label, turns(torch.zeros(1, head // 2, device=labels.device)))
        return cache

    def predict(self, cache: KVCache, count: int) -> Tensor:
        """See `Prior`."""
        assert cache.last is not None
        places = cache.next(count)
        keys, values = cache.read(len(self.content))
        y = self.asked_place(places) + cache.last
        turn = self._turns(places)
        for layer in self.layers(self.asking):
            query, _, _ = layer.queries(y, turn)
            y = layer.add(y, attend(query.to(keys.dtype), keys, values, None))
        found: Tensor = self.last_norm(y)
        return found

    def commit(self, cache: KVCache, tokens: Tensor) -> None:
        """See `Prior`; tokens committed together see each other."""
        places = cache.next(tokens.shape[1])
        self._push(cache, self.embed(tokens, self.known_place(places)), self._turns(places))

    def _push(self, cache: KVCache, x: Tensor, turn: tuple[Tensor, Tensor]) -> None:
        count = x.shape[1]
        for index, layer in enumerate(self.layers(self.content)):
            query, key, value = layer.queries(x, turn)
            assert key is not None and value is not None
            cache.write(index, key, value)
            keys, values = cache.read(index, count)
            x = layer.add(x, attend(query.to(keys.dtype), keys, values, None))
        cache.write(len(self.content), *self._share(x, turn))
        cache.advance(count)
