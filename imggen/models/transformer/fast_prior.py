"""The any-order prior rearranged for sampling: the same numbers up to rounding, in less than half the time on a CPU.

torch.compile is no substitute: it needs a C++ compiler on the user's machine, and every group of a plan has other
shapes. A step of sampling has few rows, so its time goes into starting operations and reading weights. Here

- the gains of norms are folded into the matrices that follow them (`fold_norm`),
- the gains of query and key norms are folded into the cosines and sines of the rotary embedding (`fold_rotary`),
- matrices are stored transposed, which is the faster layout for few rows,
- position embeddings and rotary tables of all positions are looked up once per batch,
- the first layers of the head's channels are one matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu

from imggen.models.transformer.any_order_prior import AnyOrderPrior, Layer
from imggen.models.transformer.kv_cache import KVCache
from imggen.models.transformer.layers import AutoregressiveHead, Head, RMSNorm, attend, modules_of, rotary_angles
from imggen.models.transformer.prior import Prior


class FastPrior(Prior):
    """Samples as the given prior does; the given prior's weights must not be changed or moved afterwards."""

    def __init__(self, prior: AnyOrderPrior) -> None:
        super().__init__(prior.factors, prior.side, prior.classes)
        assert isinstance(prior.head, AutoregressiveHead)
        self.prior = prior
        self.content_layers = [FastLayer(layer) for layer in modules_of(prior.content_layers, Layer)]
        self.query_layers = [FastLayer(layer) for layer in modules_of(prior.query_layers, Layer)]
        self.shared_kv = fold_norm(prior.shared_kv.weight, prior.shared_kv_norm)
        self.head_inputs = torch.cat(
            [fold_norm(layer.weight, prior.final_norm) for layer in prior.head.input_layers()], 1
        )
        self.rotary = _rotary_tables(prior)
        self.head = FastHead(prior.head, prior.class_embedding.embedding_dim)

    def states(self, values: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
        """All groups at once; the states of this class are the outputs of the head's first layers.

        (B, T, channels · width), from here and from `predict`.
        """
        return unit_length(self.prior.query_stream(values, labels, groups)) @ self.head_inputs

    def features(self, values: Tensor, labels: Tensor) -> Tensor:
        """That of the given prior."""
        return self.prior.features(values, labels)

    def begin(self, labels: Tensor, order: Tensor) -> FastCache:
        """A cache that also holds what depends on positions only."""
        embedding = self.prior.class_embedding(labels).unsqueeze(1)
        heads, head_width = self.prior.heads, embedding.shape[-1] // self.prior.heads
        like = embedding[:1] @ self.shared_kv  # has the dtype of the projections, under autocast too
        shape = (labels.shape[0], heads, self.length + 1, head_width)
        cache = FastCache(len(self.content_layers) + 1, shape, like, order)
        cache.class_embedding = embedding
        cache.content_positions = self.prior.content_positions(order)
        cache.query_positions = self.prior.query_positions(order)
        cache.rotary = self.rotary[torch.cat([torch.zeros_like(order[:1]), order + 1])]
        self._append(cache, embedding)
        return cache

    def predict(self, cache: KVCache, count: int) -> Tensor:
        """Run the query layers for the next `count` positions: (B, count, channels · width)."""
        assert isinstance(cache, FastCache)
        keys, values = cache.read(len(self.content_layers))
        positions = cache.query_positions[cache.num_tokens : cache.num_tokens + count]
        y = (positions + cache.class_embedding).flatten(0, 1)
        rotary = cache.rotary[cache.filled : cache.filled + count]
        for index, layer in enumerate(self.query_layers, len(self.content_layers)):
            query = apply_folded_rotary(layer.project(y, count), rotary[:, index, :, :1])[:, :, 0]
            y = layer.add(y, attend(query.to(keys.dtype), keys, values, None))
        return torch.mm(unit_length(y), self.head_inputs).view(-1, count, self.head_inputs.shape[1])

    def commit(self, cache: KVCache, values: Tensor) -> None:
        """Run the content layers for the next tokens (B, T, d)."""
        assert isinstance(cache, FastCache)
        positions = cache.content_positions[cache.num_tokens : cache.num_tokens + values.shape[1]]
        self._append(cache, self.prior.embed(values, positions))

    def _append(self, cache: FastCache, x: Tensor) -> None:
        """Run embeddings (B, T, width) through the content layers, adding their keys and values to the cache."""
        count = x.shape[1]
        x = x.flatten(0, 1)
        rotary = cache.rotary[cache.filled : cache.filled + count]
        for index, layer in enumerate(self.content_layers):
            projected = layer.project(x, count)
            query_key = apply_folded_rotary(projected[:, :, :2], rotary[:, index])
            cache.write(index, query_key[:, :, 1], projected[:, :, 2])
            keys, values = cache.read(index, count)
            x = layer.add(x, attend(query_key[:, :, 0].to(keys.dtype), keys, values, None))
        shared = (unit_length(x) @ self.shared_kv).view(-1, count, 2, self.prior.heads, self.rotary.shape[-1])
        shared_key = apply_folded_rotary(shared[:, :, :1], rotary[:, -1, :, :1])[:, :, 0]
        cache.write(len(self.content_layers), shared_key, shared[:, :, 1])
        cache.advance(count)


class FastCache(KVCache):
    """With what depends on positions only, in the order of the plan."""

    content_positions: Tensor  # (side², width)
    query_positions: Tensor  # (side², width)
    rotary: Tensor  # (1 + side², layers + 1, 2, 2, 1, head_width), the class first, see `_rotary_tables`


class FastLayer:
    """A layer's matrices, transposed, with the gains of the norms before them; hidden states are (B · T, width)."""

    def __init__(self, layer: Layer) -> None:
        self.heads = layer.heads
        self.head_width = layer.out.weight.shape[1] // layer.heads
        self.projection = fold_norm(layer.projection.weight, layer.attention_norm)
        self.out = fold_norm(layer.out.weight)
        # Two products are faster than one whose halves must be taken apart.
        self.gate, self.value = (fold_norm(half, layer.mlp_norm) for half in layer.mlp.up.weight.chunk(2))
        self.down = fold_norm(layer.mlp.down.weight)

    def project(self, x: Tensor, count: int) -> Tensor:
        """Queries, and in a content layer keys and values, (B, count, 1 or 3, heads, head_width)."""
        projected = torch.mm(unit_length(x), self.projection)
        return projected.view(len(x) // count, count, -1, self.heads, self.head_width)

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual connections and SwiGLU; attended is (B, T, width)."""
        x = x + torch.mm(attended.view(x.shape), self.out)
        unit = unit_length(x)
        hidden = silu(torch.mm(unit, self.gate), inplace=True).mul_(torch.mm(unit, self.value))
        return x + torch.mm(hidden, self.down)


class FastHead(Head):
    """An `AutoregressiveHead` whose input is the output of its first layers, (…, channels · width)."""

    def __init__(self, head: AutoregressiveHead, width: int) -> None:
        super().__init__()
        self.factors, self.width = head.factors, width
        self.embeddings = [
            [table.weight.detach() for table in head.embeddings(channel)] for channel in range(len(head.factors))
        ]
        self.outputs = [(fold_norm(layer.weight), layer.bias.detach()) for layer in head.logit_layers()]

    def logits(self, hidden: Tensor, channel: int, tokens: Tensor) -> Tensor:
        """Logits (…, factors[channel])."""
        x = hidden[..., channel * self.width : (channel + 1) * self.width]
        for previous, table in enumerate(self.embeddings[channel]):
            x = x + embedding(tokens[..., previous], table)
        matrix, bias = self.outputs[channel]
        return torch.addmm(bias, silu(x).flatten(0, -2), matrix).view(*x.shape[:-1], len(bias))


def unit_length(x: Tensor) -> Tensor:
    """Divide vectors (…, width) by their length; none has length 0."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def fold_norm(weight: Tensor, norm: RMSNorm | None = None) -> Tensor:
    """A matrix M (inputs, outputs) of a linear layer's weight (outputs, inputs) and the norm before the layer.

    unit_length(x) @ M is linear(norm(x)): RMSNorm divides by the length over √width, so M has the gain and √width.
    """
    if norm is not None:
        weight = weight * (norm.gain * norm.gain.numel() ** 0.5)
    return weight.detach().t().contiguous()


def fold_rotary(norm: RMSNorm, angles: Tensor) -> Tensor:
    """Factors F (T, 2, head_width) of a query or key norm with a rotary embedding of angles (T, head_width/2) after it.

    apply_folded_rotary(x, F) is apply_rotary(norm(x), cos_sin(angles)): the first factor is for x, the other for x with
    its halves swapped.
    """
    gain = norm.gain * norm.gain.numel() ** 0.5
    cosine = torch.cat([angles.cos(), angles.cos()], -1)
    sine = torch.cat([-angles.sin(), angles.sin()], -1)
    return torch.stack([cosine * gain, sine * gain.roll(len(gain) // 2, -1)], 1)


def apply_folded_rotary(x: Tensor, factors: Tensor) -> Tensor:
    """Normalize and rotate x (B, T, n, heads, head_width); factors (T, 2, n, 1, head_width), see `fold_rotary`."""
    x = unit_length(x)
    half = x.shape[-1] // 2
    return torch.addcmul(x * factors[:, 0], x.roll(half, -1), factors[:, 1])


def _rotary_tables(prior: AnyOrderPrior) -> Tensor:
    """The factors of `fold_rotary` for all layers: (1 + side², layers + 1, 2, 2, 1, head_width).

    The class and all positions; content layers, query layers, and the shared keys; the two factors; query and key.
    """
    head_width = prior.class_embedding.embedding_dim // prior.heads
    angles = rotary_angles(prior.side, head_width, prior.class_embedding.weight.device)
    angles = torch.cat([torch.zeros_like(angles[:1]), angles])
    layers = [*modules_of(prior.content_layers, Layer), *modules_of(prior.query_layers, Layer)]
    norms = [*((layer.query_norm, layer.key_norm) for layer in layers), (prior.shared_key_norm, None)]
    tables = []
    for first, second in norms:
        query_key = torch.stack([fold_rotary(first, angles), fold_rotary(second or first, angles)], 2)
        tables.append(query_key.unsqueeze(3))
    return torch.stack(tables, 1)
