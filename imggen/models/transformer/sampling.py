"""Noise → tokens, group by group, through the prior's cache; and tokens → noise by the same steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from imggen.models.config import SamplingOptions
from imggen.models.transformer.layers import mix_with_uniform
from imggen.models.transformer.prior import Prior

MIN_INTERVAL = 1e-4  # a value of less probability gets the noise at the middle of its interval
INTERVAL_MARGIN = 0.02  # fraction of a wider interval that is left out at each end


class Prefix(NamedTuple):
    """Values (B, side², d) of which those at `positions` are given and not sampled; a group is given as a whole."""

    values: Tensor
    positions: frozenset[int]


class Group(NamedTuple):
    """A group of a plan while it is sampled or inverted, see `_groups`."""

    positions: list[int]
    span: slice  # where the group is in the order of the plan
    values: Tensor  # (B, T, d), a view into all values in the order of the plan
    distributions: Iterator[Tensor]  # probabilities (B, T, L) of each channel


@torch.no_grad()
def sample_tokens(
    prior: Prior,
    labels: Tensor,
    plan: list[list[int]],
    noise: Tensor,
    options: SamplingOptions,
    *,
    prefix: Prefix | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Sample values (B, side², d) from standard-normal noise (B, side², d), a deterministic map.

    `order` is `plan_order(plan, device)`: with it nothing is copied to the device or back, so that a CUDA graph can
    record the whole function.
    """
    if order is None:
        order = plan_order(plan, noise.device)
    # From here on values and noise are in the order of the plan.
    values = torch.zeros_like(noise, dtype=torch.int64) if prefix is None else prefix.values[:, order]
    uniform = normal_to_uniform(noise[:, order])
    for group in _groups(prior, labels, plan, order, values, options):
        # A given group is committed to the cache without being predicted.
        if prefix is not None and group.positions[0] in prefix.positions:
            continue
        for channel, distribution in enumerate(group.distributions):
            u = uniform[:, group.span, channel]
            group.values[..., channel] = inverse_cdf(distribution, u, all_positive=is_plain(options))
    return values[:, order.argsort()]


@torch.no_grad()
def invert_tokens(
    prior: Prior, labels: Tensor, plan: list[list[int]], values: Tensor, options: SamplingOptions
) -> Tensor:
    """Noise (B, side², d), float32, from which `sample_tokens` samples the given values (B, side², d).

    A value's noise lies at a random point of its interval, the same point for every row, so that the noise of a data
    set is standard normal like that of the seeds.
    """
    order = plan_order(plan, values.device)
    # From here on values and noise are in the order of the plan.
    values = values[:, order]
    noise = torch.zeros(values.shape, device=values.device)
    t = torch.rand(values.shape[1:], generator=torch.Generator().manual_seed(0)).to(values.device)
    for group in _groups(prior, labels, plan, order, values, options):
        for channel, distribution in enumerate(group.distributions):
            interval = group.values[..., channel]
            noise[:, group.span, channel] = noise_in_interval(distribution, interval, t[group.span, channel])
    return noise[:, order.argsort()]


def _groups(
    prior: Prior,
    labels: Tensor,
    plan: list[list[int]],
    order: Tensor,
    values: Tensor,
    options: SamplingOptions,
) -> Iterator[Group]:
    """Go through the groups of a plan, with their distributions; `values` (B, side², d) are in the order of the plan.

    The caller sets a channel of `group.values` before it takes the next distribution, and all of them before it takes
    the next group, unless they are given. A group's distributions are computed only when they are taken.
    """
    # Classifier-free guidance (arXiv 2207.12598): a second copy of each row has no class, see `_logits`.
    guided = options.guidance != 1 and prior.classes > 0
    if guided:
        labels = torch.cat([labels, torch.full_like(labels, prior.classes)])
    cache = prior.begin(labels, order)

    def distributions(group: Tensor) -> Iterator[Tensor]:
        hidden = prior.predict(cache, group.shape[1])
        for channel in range(len(prior.factors)):
            logits = _logits(prior, hidden, channel, group, options.guidance if guided else 1.0)
            yield probabilities(logits, options)

    start = 0
    for positions in plan:
        span = slice(start, start + len(positions))
        group = values[:, span]
        yield Group(positions, span, group, distributions(group))
        start = span.stop
        if start < len(order):  # nothing is predicted after the last group
            prior.commit(cache, torch.cat([group, group]) if guided else group)


def _logits(prior: Prior, hidden: Tensor, channel: int, values: Tensor, guidance: float) -> Tensor:
    """Logits (B, T, L) of a channel. With guidance, those of the class moved away from those without a class."""
    if guidance == 1:
        return prior.head.logits(hidden, channel, values)
    with_class, without = prior.head.logits(hidden, channel, torch.cat([values, values])).float().chunk(2)
    return without + guidance * (with_class - without)


def plan_order(plan: list[list[int]], device: torch.device) -> Tensor:
    """The positions of a plan in the order in which they are sampled, (side²,), int64."""
    return torch.tensor([position for group in plan for position in group], device=device)


def is_plain(options: SamplingOptions) -> bool:
    """Whether probabilities are used as predicted: no temperature, top-k or top-p."""
    return options.temperature == 1 and options.top_k == 0 and options.top_p == 1


def probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (…, L) of one channel → probabilities to sample from, float64 where the device has it.

    First the temperature divides the logits, then the `top_k` most likely values are kept, then the fewest of those
    that together have probability `top_p` (arXiv 1904.09751).
    """
    if is_plain(options):
        return mix_with_uniform(logits.softmax(-1, dtype=finest_dtype(logits)))
    scores = logits.to(finest_dtype(logits))
    if options.temperature == 0:
        return torch.zeros_like(scores).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    result = mix_with_uniform((scores / options.temperature).softmax(-1))
    if 0 < options.top_k < result.shape[-1]:
        smallest_kept = result.topk(options.top_k, -1).values[..., -1:]
        result = torch.where(result >= smallest_kept, result, torch.zeros_like(result))
    if options.top_p < 1:
        result = result / result.sum(-1, keepdim=True)
        descending, indices = result.sort(stable=True, dim=-1, descending=True)
        before = descending.cumsum(-1) - descending
        kept = torch.where(before < options.top_p, descending, torch.zeros_like(descending))
        result = torch.zeros_like(result).scatter_(-1, indices, kept)
    return result / result.sum(-1, keepdim=True)


def finest_dtype(tensor: Tensor) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def normal_to_uniform(noise: Tensor) -> Tensor:
    """Standard-normal noise → uniform numbers in [0, 1], by the normal distribution function."""
    return torch.special.ndtr(noise.to(finest_dtype(noise)))


def inverse_cdf(distribution: Tensor, uniform: Tensor, *, all_positive: bool = False) -> Tensor:
    """Sample by the inverse distribution function: probabilities (…, L), uniform numbers (…) → values (…), int64.

    `all_positive` says that no probability is 0, which saves a step.
    """
    # The last value also gets the uniform numbers beyond the sum of the probabilities (rounding).
    values = (uniform.unsqueeze(-1) >= distribution.cumsum(-1)[..., :-1]).sum(-1)
    if all_positive:
        return values
    # A value of probability 0 is never sampled, not even at the end.
    last = distribution.shape[-1] - 1 - (distribution.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(values, last)


def noise_in_interval(distribution: Tensor, values: Tensor, t: Tensor) -> Tensor:
    """Standard-normal noise (…), float32, from which `inverse_cdf` samples the values (…); t in [0, 1] is where.

    t = 0 and t = 1 are near the ends of the value's interval, with a margin; in a narrow interval the middle is used.
    So rounding cannot change the value.
    """
    upper_ends = distribution.cumsum(-1)
    width = distribution.gather(-1, values.unsqueeze(-1)).squeeze(-1)
    upper = upper_ends.gather(-1, values.unsqueeze(-1)).squeeze(-1)
    inside = torch.where(width > MIN_INTERVAL, INTERVAL_MARGIN + (1 - 2 * INTERVAL_MARGIN) * t.to(width), 0.5)
    epsilon = torch.finfo(width.dtype).eps
    return torch.special.ndtri((upper - width * inside).clamp(epsilon, 1 - epsilon)).float()
