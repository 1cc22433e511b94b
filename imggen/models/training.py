"""EMA of weights, learning-rate schedule, micro-batches: what the learners of several families use."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imggen.models.muon import Muon


class EMA:
    """An exponential moving average of a network's weights and buffers.

    Its half-life is `half_life` training images, but never more than a tenth of those used so far, so that the
    average soon forgets the random initialization (StyleGAN2's ramp-up, arXiv 1912.04958).
    """

    def __init__(self, network: nn.Module, half_life: int) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life

    @torch.no_grad()
    def update(self, network: nn.Module, batch: int, images_seen: int) -> None:
        """Move towards `network` after a step on `batch` images; `images_seen` counts the images before it."""
        half_life = min(self.half_life, 0.1 * (images_seen + batch))
        weight = 1.0 if half_life <= 0 else 1 - 0.5 ** (batch / half_life)
        # state_dict: BatchNorm's running statistics must be averaged along with the weights they belong to.
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name], weight)
            else:
                average.copy_(current[name])


def cosine_decay(progress: float, last: float) -> float:
    """Factor of the learning rate, from 1 at progress 0 down to `last` at progress 1 (arXiv 1608.03983)."""
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


def warmed_cosine(progress: float, last: float, warm_up: float) -> float:
    """`cosine_decay`, after a linear rise over the fraction `warm_up` of the training."""
    return cosine_decay(progress, last) * min(1.0, (progress + 1e-3) / warm_up)


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float, muon_scale: float = 1.0) -> None:
    """Set the learning rate of every parameter group; that of Muon optimizers is `muon_scale` times as high."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * (muon_scale if isinstance(optimizer, Muon) else 1.0)


def micro_batches(tensor: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """Split a batch into parts of at most `size` rows; one part when there is no limit."""
    return (tensor,) if size is None else torch.split(tensor, size)
