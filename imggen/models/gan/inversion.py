"""A generator run backwards: which noise, and which class, draws what is known of a picture?

Many random draws are compared first, the nearest are refined together by gradient descent, the best of those to the end
(image2stylegan, arXiv 1904.03189, starts from one mean; a hole leaves many minima, and starts find other ones). At the
end the map that the first layer makes of z may move as well: it says more than z does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

AT_ONCE = 128 * 32**2  # pixels of a channel
# Multiplications a second, in full precision.
TWO_CORES, GPU = 5e10, 2.5e12


class Draws(Protocol):
    """What is searched: a generator in two halves; pictures need not be within [-1, 1]."""

    def start(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """z (N, z_dim), labels (N,) → the first map (N, C', 4, 4)."""
        ...

    def finish(self, first: Tensor) -> Tensor:
        """The first map → pictures (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class Effort:
    """How many draws are compared, how many of them refined for how many steps, and for how many the best one."""

    draws: int
    starts: int
    steps: int
    more: int

    @classmethod
    def for_cost(cls, multiplications: float, rate: float = TWO_CORES) -> Effort:
        """What ten seconds allow a picture, when one draw takes so many multiplications, `rate` of which take one."""
        # A step costs about three draws.
        steps = int(min(440.0, max(20.0, 10 * rate / (3 * multiplications))))
        starts = 4 if steps >= 200 else 2 if steps >= 60 else 1
        return cls(max(8, min(256, steps)), starts, steps * 2 // (5 * starts), steps * 9 // 20)


@dataclass(frozen=True)
class Found:
    """Noise (B, z_dim), and the class of each, given or found; none without classes."""

    z: Tensor
    labels: Tensor | None


def search(
    net: Draws, images: Tensor, known: Tensor, pool: Tensor, labels: Tensor | None, classes: int, effort: Effort
) -> Found:
    """Find what draws `images` (B, C, H, W) where `known` (B, 1, H, W) is 1.

    `pool` (B, K, z_dim) is where each picture's search looks first. `labels` none with `classes` > 0: the class is
    searched for too. A row's answer depends on that row alone.
    """
    z, found = _screen(net, images, known, pool, labels, classes, effort.starts)
    several, seen = images.repeat_interleave(effort.starts, 0), known.repeat_interleave(effort.starts, 0)
    z, error = _descend(net, several, seen, z, found, effort.steps, 0.1)
    best = error.view(-1, effort.starts).argmin(1) + torch.arange(len(images), device=z.device) * effort.starts
    found = None if found is None else found[best]
    z, _ = _descend(net, images, known, z[best], found, effort.more, 0.1)
    return Found(z, found)


def _errors(drawn: Tensor, images: Tensor, known: Tensor) -> Tensor:
    """Mean squared error where known, a row each."""
    squares = (drawn - images).square() * known
    return squares.flatten(1).sum(1) / (known.flatten(1).sum(1) * images.shape[1]).clamp(min=1)


@torch.no_grad()
def _screen(
    net: Draws, images: Tensor, known: Tensor, pool: Tensor, labels: Tensor | None, classes: int, starts: int
) -> tuple[Tensor, Tensor | None]:
    """The nearest `starts` draws of every picture's pool, one picture after the other, and their classes."""
    chosen, chosen_labels = [], []
    for row, candidates in enumerate(pool):
        named = None
        if classes:
            wanted = torch.arange(classes, device=pool.device) if labels is None else labels[row : row + 1]
            named = wanted.repeat_interleave(max(1, len(candidates) // len(wanted)))
            candidates = candidates[torch.arange(len(named), device=pool.device) % len(candidates)]
        errors = []
        at_once = max(1, AT_ONCE // images[0, 0].numel())
        for begin in range(0, len(candidates), at_once):
            part = slice(begin, begin + at_once)
            drawn = net.finish(net.start(candidates[part], None if named is None else named[part]))
            errors.append(_errors(drawn, images[row : row + 1], known[row : row + 1]))
        best = torch.cat(errors).topk(min(starts, len(candidates)), largest=False).indices
        best = best[torch.arange(starts, device=best.device) % len(best)]
        chosen.append(candidates[best])
        if named is not None:
            chosen_labels.append(named[best])
    return torch.cat(chosen), torch.cat(chosen_labels) if chosen_labels else None


def _descend(
    net: Draws, images: Tensor, known: Tensor, start: Tensor, labels: Tensor | None, steps: int, rate: float
) -> tuple[Tensor, Tensor]:
    """Adam on the error where known, with z kept near the prior's shell; returns z and the last errors."""
    z = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=rate)
    errors = images.new_zeros(len(images))
    with torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * (1 - step / steps)
            errors = _errors(net.finish(net.start(z, labels)), images, known)
            prior = 1e-3 * (z.square().mean(1) - 1).relu().square()
            # Summed over pictures, so that a picture's answer does not depend on its neighbours.
            (z.grad,) = torch.autograd.grad((errors + prior).sum(), z)
            adam.step()
    return z.detach(), errors.detach()


def polish(net: Draws, images: Tensor, known: Tensor, found: Found, steps: int) -> Tensor:
    """Pictures whose first map has moved from z's towards what is known, but not far; (B, C, H, W)."""
    with torch.no_grad():
        first = net.start(found.z, found.labels)
    scale = first.square().mean((1, 2, 3), keepdim=True).sqrt()
    offset = torch.zeros_like(first, requires_grad=True)
    adam = torch.optim.Adam([offset], lr=0.03)
    with torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
            errors = _errors(net.finish(first + offset * scale), images, known)
            far = 1e-2 * offset.square().flatten(1).mean(1)
            (offset.grad,) = torch.autograd.grad((errors + far).sum(), offset)
            adam.step()
    with torch.no_grad():
        return net.finish(first + offset * scale)
