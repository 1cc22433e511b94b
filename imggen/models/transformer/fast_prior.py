"""The any-order prior made ready for drawing: the same numbers up to rounding, in less than half the time.

A step of drawing has few rows, so that what costs is starting operations and reading weights. Here gains and scales
are folded into the matrices once, these lie the way that a product with few rows reads them best, the turns of all
places are a table, and the head's first matrices are one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from imggen.models.transformer.any_order_prior import AnyOrderPrior, Layer
from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import Chained, Head, RMSNorm, attend, rotation
from imggen.models.transformer.prior import Prior


class FastPrior(Prior):
    """A prior that draws as the one given does, and tells likelihoods; its weights are not to change or move."""

    def __init__(self, prior: AnyOrderPrior) -> None:
        super().__init__(prior.factors, prior.side, prior.classes)
        assert isinstance(prior.head, Chained)
        self.prior = prior
        self.content = [FastLayer(layer) for layer in prior.layers(prior.content)]
        self.asking = [FastLayer(layer) for layer in prior.layers(prior.asking)]
        self.shared = folded(prior.shared.weight, prior.shared_norm)
        self.inputs = torch.cat([folded(matrix.weight, prior.last_norm) for matrix in prior.head.first()], 1)
        self.turns = _turns(prior)
        self.head = FastHead(prior.head, prior.label.embedding_dim)

    def states(self, tokens: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """See `Prior`; here and from `predict`, what the head's first matrices make of it: (B, T, channels · width)."""
        return normalised(self.prior.stream(tokens, labels, groups)) @ self.inputs

    def begin(self, labels: Tensor, order: Tensor) -> FastCache:
        """See `Prior`."""
        label = self.prior.label(labels).unsqueeze(1)
        heads, head = self.prior.heads, label.shape[-1] // self.prior.heads
        like = label[:1] @ self.shared  # of the type that the matrices give, under autocast too
        cache = FastCache(len(self.content) + 1, len(labels), heads, self.length + 1, head, like, order)
        cache.last = label
        cache.known, cache.asked = self.prior.known_place(order), self.prior.asked_place(order)
        cache.turns = self.turns[torch.cat([torch.zeros_like(order[:1]), order + 1])]
        self._push(cache, label)
        return cache

    def predict(self, cache: KVCache, count: int) -> Tensor:
        """See `Prior`."""
        assert isinstance(cache, FastCache) and cache.last is not None
        keys, values = cache.read(len(self.content))
        y = (cache.asked[cache.done : cache.done + count] + cache.last).flatten(0, 1)
        turns = cache.turns[cache.filled : cache.filled + count]
        for index, layer in enumerate(self.asking, len(self.content)):
            query = turned(layer.parts(y, count), turns[:, index, :, :1])[:, :, 0]
            y = layer.add(y, attend(query.to(keys.dtype), keys, values, None))
        found: Tensor = torch.mm(normalised(y), self.inputs).view(-1, count, self.inputs.shape[1])
        return found

    def commit(self, cache: KVCache, tokens: Tensor) -> None:
        """See `Prior`."""
        assert isinstance(cache, FastCache)
        places = cache.known[cache.done : cache.done + tokens.shape[1]]
        self._push(cache, self.prior.embed(tokens, places))

    def _push(self, cache: FastCache, x: Tensor) -> None:
        count = x.shape[1]
        x = x.flatten(0, 1)
        turns = cache.turns[cache.filled : cache.filled + count]
        for index, layer in enumerate(self.content):
            parts = layer.parts(x, count)
            both = turned(parts[:, :, :2], turns[:, index])
            cache.write(index, both[:, :, 1], parts[:, :, 2])
            keys, values = cache.read(index, count)
            x = layer.add(x, attend(both[:, :, 0].to(keys.dtype), keys, values, None))
        parts = (normalised(x) @ self.shared).view(-1, count, 2, self.prior.heads, self.turns.shape[-1])
        cache.write(len(self.content), turned(parts[:, :, :1], turns[:, -1, :, :1])[:, :, 0], parts[:, :, 1])
        cache.advance(count)


class FastCache(KVCache):
    """With what does not depend on the pictures: of all places in their order, and `turns` of the class as well."""

    known: Tensor
    asked: Tensor
    turns: Tensor


class FastLayer:
    """A layer's matrices, transposed, with the gains of the norms before them; streams are (B · T, width)."""

    def __init__(self, layer: Layer) -> None:
        self.heads = layer.heads
        self.head = layer.out.weight.shape[1] // layer.heads
        self.project = folded(layer.project.weight, layer.before_attention)
        self.out = folded(layer.out.weight)
        # Two products with whole results are faster than one whose halves must be taken apart.
        self.gate, self.value = (folded(part, layer.before_gate) for part in layer.gated.up.weight.chunk(2))
        self.down = folded(layer.gated.down.weight)

    def parts(self, x: Tensor, count: int) -> Tensor:
        """Queries, and in the content stream keys and values, (B, count, 1 or 3, heads, head)."""
        return torch.mm(normalised(x), self.project).view(len(x) // count, count, -1, self.heads, self.head)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream after this layer; attended is (B, T, width)."""
        x = x + torch.mm(attended.view(x.shape), self.out)
        unit = normalised(x)
        inside = silu(torch.mm(unit, self.gate), inplace=True).mul_(torch.mm(unit, self.value))
        return x + torch.mm(inside, self.down)


class FastHead(Head):
    """`Chained`, with what its first matrices give instead of the state."""

    def __init__(self, head: Chained, width: int) -> None:
        super().__init__()
        self.factors, self.width = head.factors, width
        self.tables = [[table.weight.detach() for table in tables] for tables in head.before()]
        self.outputs = [(folded(last.weight), last.bias.detach()) for last in head.last()]

    def logits(self, state: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """See `Head`."""
        x = state[..., channel * self.width : (channel + 1) * self.width]
        for before, table in enumerate(self.tables[channel]):
            x = x + embedding(tokens[..., before], table)
        matrix, bias = self.outputs[channel]
        return torch.addmm(bias, silu(x).flatten(0, -2), matrix).view(*x.shape[:-1], len(bias))


def folded(weight: Tensor, norm: RMSNorm | None = None) -> Tensor:
    """A matrix (out, in) → (in, out), to be multiplied with vectors of length 1 where there was a norm before it."""
    if norm is not None:
        weight = weight * (norm.gain * norm.gain.numel() ** 0.5)
    return weight.detach().t().contiguous()


def normalised(x: Tensor) -> Tensor:
    """(…, width), each of length 1; none has length 0."""
    found: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return found


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """(B, T, n, heads, head) → made of length 1, then times the gains and turned; `turns` are (T, 2, n, 1, head)."""
    x = normalised(x)
    half = x.shape[-1] // 2
    return torch.addcmul(x * turns[:, 0], x.roll(half, -1), turns[:, 1])


def _turns(prior: AnyOrderPrior) -> Tensor:
    """(1 + side², layers + 1, 2, 2, 1, head): the class and all places; what is turned is multiplied with the first,
    and with its halves swapped with the second; for queries and keys.
    """
    head = prior.label.embedding_dim // prior.heads
    angles = rotation(prior.side, head, prior.label.weight.device)
    angles = torch.cat([torch.zeros_like(angles[:1]), angles])
    cosine = torch.cat([angles.cos(), angles.cos()], -1)
    sine = torch.cat([-angles.sin(), angles.sin()], -1)
    found = []
    layers = [*prior.layers(prior.content), *prior.layers(prior.asking)]
    for queries, keys in [*((layer.query_norm, layer.key_norm) for layer in layers), (prior.key_norm, None)]:
        gains = torch.stack([queries.gain, (keys or queries).gain]) * head**0.5
        pair = [cosine[:, None] * gains, sine[:, None] * gains.roll(head // 2, -1)]
        found.append(torch.stack(pair, 1).unsqueeze(3))
    return torch.stack(found, 1)
