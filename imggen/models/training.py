"""What two families or more use."""

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

    Its half-life is `half_life` pictures, but never more than a tenth of those seen so far, so that
    early pictures do not show the random start (StyleGAN2's ramp-up, arXiv 1912.04958).
    """

    def __init__(self, network: nn.Module, half_life: int) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life

    @torch.no_grad()
    def update(self, network: nn.Module, batch: int, images_seen: int) -> None:
        """Move towards `network` by one step of `batch` pictures; `images_seen` counts those before."""
        half_life = min(self.half_life, 0.1 * (images_seen + batch))
        weight = 1.0 if half_life <= 0 else 1 - 0.5 ** (batch / half_life)
        # state_dict: BatchNorm's running statistics must be averaged along with the weights they belong to.
        mine, theirs = self.network.state_dict(), network.state_dict()
        for name, tensor in mine.items():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name], weight)
            else:
                tensor.copy_(theirs[name])


def cosine_decay(progress: float, last: float) -> float:
    """From 1 at the beginning down to `last` at the end (arXiv 1608.03983): what a learning rate is multiplied by."""
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float, muon_scale: float = 1.0) -> None:
    """Set the learning rate of every parameter group; that of Muon optimizers is `muon_scale` times as high."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * (muon_scale if isinstance(optimizer, Muon) else 1.0)


def micro_batches(tensor: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """Split a batch into parts of at most `size` rows; one part when there is no limit."""
    return (tensor,) if size is None else torch.split(tensor, size)


def on_white(pictures: Tensor) -> Tensor:
    """Colours laid on white, beside their alpha (B, 4, H, W): what cannot be seen no longer differs."""
    alpha = (pictures[:, 3:] + 1) / 2
    colours = pictures[:, :3] * alpha + (1 - alpha)
    return torch.cat([colours, pictures[:, 3:]], 1).contiguous(memory_format=torch.channels_last)
