"""Noise → tokens, group by group, through the prior's cache; and tokens → noise by the same way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imggen.models.config import SamplingOptions
from imggen.models.transformer.layers import with_floor
from imggen.models.transformer.prior import Prior

NARROW, EDGE = 1e-4, 0.02  # of all noise; of an interval of it


def is_plain(options: SamplingOptions) -> bool:
    """Whether the probabilities are used as they are: no temperature, top-k or top-p."""
    return options.temperature == 1 and options.top_k == 0 and options.top_p == 1


@dataclass(frozen=True)
class Walk:
    """Tokens (B, side², d) and the noise (B, side², d) that leads to them."""

    tokens: Tensor
    noise: Tensor


def probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (…, L) of one channel → what it is drawn from, fp64 where the device has it; rows add up to 1.

    First the temperature, then the `top_k` likeliest, then the fewest of those that make up `top_p`.
    """
    if is_plain(options):
        return with_floor(logits.softmax(-1, dtype=finest(logits)))
    scores = logits.to(finest(logits))
    if options.temperature == 0:
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    found = with_floor((scores / options.temperature).softmax(-1))
    if 0 < options.top_k < found.shape[-1]:
        least = found.topk(options.top_k, -1).values[..., -1:]
        found = torch.where(found >= least, found, torch.zeros_like(found))
    if options.top_p < 1:
        found = found / found.sum(-1, keepdim=True)
        ordered, where = found.sort(stable=True, dim=-1, descending=True)
        kept = torch.where(ordered.cumsum(-1) - ordered < options.top_p, ordered, torch.zeros_like(ordered))
        found = torch.zeros_like(found).scatter_(-1, where, kept)
    return found / found.sum(-1, keepdim=True)


def finest(tensor: Tensor) -> torch.dtype:
    """fp64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def shares(noise: Tensor) -> Tensor:
    """Standard-normal noise → the share of all noise that is less, 0 to 1."""
    found: Tensor = torch.special.ndtr(noise.to(finest(noise)))
    return found


def drawn(chances: Tensor, share: Tensor, *, plain: bool = False) -> Tensor:
    """The inverse of the distribution function: chances (…, L), `shares` (…) of the noise → values (…), int64.

    With `plain` no value is without a chance.
    """
    # The last value takes what rounding leaves; a value without a chance is never reached.
    found = (share.unsqueeze(-1) >= chances.cumsum(-1)[..., :-1]).sum(-1)
    if plain:
        return found
    last = chances.shape[-1] - 1 - (chances.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(found, last)


def within(chances: Tensor, values: Tensor, place: Tensor) -> Tensor:
    """Noise (…) of the interval that `drawn` turns into the values (…), fp32; `place` is where in it, 0 to 1.

    Not quite at its ends, and of a narrow one the middle, so that rounding leads to no other value.
    """
    ends = chances.cumsum(-1)
    width = chances.gather(-1, values.unsqueeze(-1)).squeeze(-1)
    upper = ends.gather(-1, values.unsqueeze(-1)).squeeze(-1)
    inside = torch.where(width > NARROW, EDGE + (1 - 2 * EDGE) * place.to(width), 0.5)
    edge = torch.finfo(width.dtype).eps
    noise: Tensor = torch.special.ndtri((upper - width * inside).clamp(edge, 1 - edge))
    return noise.float()


@torch.no_grad()
def walk(
    prior: Prior,
    labels: Tensor,
    plan: list[list[int]],
    options: SamplingOptions,
    *,
    noise: Tensor | None = None,
    known: Tensor | None = None,
    given: frozenset[int] = frozenset(),
    order: Tensor | None = None,
) -> Walk:
    """Go through the groups of `plan`, drawing from `noise` (B, side², d) where a place is not `given` in `known`.

    Without noise all must be given, and noise that draws them is worked out: of all such noise what chance would have
    it, the same chance for every row, so that it is normal noise like any other. A group is given as a whole or not.
    `order` are the plan's places one after another, for who has them where the noise is: then nothing is sent to the
    device or read back.

    With guidance other than 1 the class's logits are pushed away from those of no class (arXiv 2207.12598).
    """
    source = noise if noise is not None else known
    assert source is not None
    guided = options.guidance != 1 and prior.classes > 0
    if order is None:
        order = ordered(plan, source.device)
    cache = prior.begin(torch.cat([labels, torch.full_like(labels, prior.classes)]) if guided else labels, order)
    # From here on tokens and noise lie in the order in which they are drawn.
    tokens = known[:, order] if known is not None else torch.zeros_like(source, dtype=torch.int64)
    share = None if noise is None else shares(noise[:, order])
    found = torch.zeros(source.shape, device=source.device)
    places = torch.rand(source.shape[1:], generator=torch.Generator().manual_seed(0)) if share is None else found[0]
    places = places.to(source.device)
    start = 0
    for number, group in enumerate(plan):
        there = slice(start, start + len(group))
        start += len(group)
        here = tokens[:, there]
        if share is None or group[0] not in given:
            state = prior.predict(cache, len(group))
            for channel in range(len(prior.factors)):
                logits = _guided(prior, state, channel, here, options.guidance if guided else 1.0)
                chances = probabilities(logits, options)
                if share is None:
                    found[:, there, channel] = within(chances, here[..., channel], places[there, channel])
                else:
                    here[..., channel] = drawn(chances, share[:, there, channel], plain=is_plain(options))
        if number + 1 < len(plan):
            prior.commit(cache, torch.cat([here, here]) if guided else here)
    back = order.argsort()
    return Walk(tokens[:, back], found[:, back] if noise is None else noise)


def ordered(plan: list[list[int]], device: torch.device) -> Tensor:
    """The places of a plan in the order in which they are drawn, (side²,), int64."""
    return torch.tensor([place for group in plan for place in group], device=device)


def _guided(prior: Prior, state: Tensor, channel: int, tokens: Tensor, guidance: float) -> Tensor:
    if guidance == 1:
        return prior.head.logits(state, channel, tokens)
    wanted, bare = prior.head.logits(state, channel, torch.cat([tokens, tokens])).float().chunk(2)
    return bare + guidance * (wanted - bare)
