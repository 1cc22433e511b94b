"""A network after the decoder that makes its means sharper, and the critic that it learns from.

A mean is the average of all that may be there, and so is soft where much may be. The network adds what is missing to
be told from a real picture by none of the critic's patches (relativistic pairs, Jolicoeur-Martineau 2018, arXiv
1807.00734; with R1 and R2, Huang et al. 2024, arXiv 2501.05441), and to look to the critic's own features like the
picture that was looked at (Larsen et al. 2015, arXiv 1512.09300). The ladder itself is not touched.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pixel_shuffle, pixel_unshuffle, silu, softplus

from imggen.data.augment import draw_changes
from imggen.models.layers import on_white
from imggen.models.vae.config import Config

BLOCKS = 4
PATCH = 2  # the network works on squares of so many pixels
NARROW = 8  # side in pixels of the critic's coarsest map
CHANGED = 0.3  # strength of the changes to what the critic sees
ALIKE = 0.2  # weight of the critic's features
COARSE, KEPT = 4, 10.0  # squares whose colour is to stay the mean's, and the weight of that
GAMMA, EVERY = 0.3, 8  # the penalty's weight, and in how many steps it is taken once


class Sharpener(nn.Module):
    """The likelihood's mean (B, C, H, W) and its input (B, outputs, H, W) → pictures (B, C, H, W) in [-1, 1].

    At first it gives the means back. `ready` is 1 once it has begun to learn: a checkpoint may be older than that.
    """

    ready: Tensor

    def __init__(self, config: Config, outputs: int) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Conv2d(PATCH**2 * (config.channels + outputs), width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(BLOCKS)
        )
        self.leave = nn.Conv2d(width, PATCH**2 * config.channels, 3, 1, 1)
        self.register_buffer("ready", torch.zeros(()))
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, mean: Tensor, output: Tensor) -> Tensor:
        """See above."""
        x = self.enter(pixel_unshuffle(torch.cat([mean, output], 1), PATCH))
        for block in self.blocks:
            x = x + BLOCKS**-0.5 * block(x)
        return (mean + pixel_shuffle(self.leave(silu(x)), PATCH)).clamp(-1, 1)


class Critic(nn.Module):
    """Pictures (B, C, H, W) → a logit a patch, and the features on the way to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, side = [config.width], config.size
        while side > NARROW:
            side //= 2
            widths.append(min(2 * widths[-1], 4 * config.width))
        self.enter = nn.Conv2d(config.channels, widths[0], 3, 1, 1)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, h, w)."""
        x = leaky_relu(self.enter(pictures), 0.2)
        found = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            found.append(x)
        logits: Tensor = self.leave(x)
        return logits, found


def changed(*several: Tensor) -> tuple[Tensor, ...]:
    """Batches of pictures as the critic sees them: all changed alike, so that none differs by its change."""
    device = several[0].device
    change = draw_changes(several[0].shape, CHANGED, device)
    with torch.autocast(device.type, enabled=False):
        return tuple(change(on_white(pictures) if pictures.shape[1] == 4 else pictures) for pictures in several)


def critic_loss(critic: Critic, real: Tensor, seen: Tensor, drawn: Tensor) -> Tensor:
    """Real pictures against their own sharpened versions, and against drawn ones."""
    real, seen, drawn = changed(real, seen.detach(), drawn.detach())
    on_real = critic(real)[0]
    return (softplus(critic(seen)[0] - on_real).mean() + softplus(critic(drawn)[0] - on_real).mean()) / 2


def penalty(critic: Critic, *several: Tensor) -> Tensor:
    """The squared length of the critic's gradient at real and at sharpened pictures, fp32."""
    total = torch.zeros((), device=several[0].device)
    for pictures in several:
        pictures = pictures.detach().float().requires_grad_(True)
        logits = critic(changed(pictures)[0])[0]
        (slope,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), pictures, create_graph=True)
        # Of a mean over many patches the slope is as much flatter.
        total = total + slope.square().flatten(1).sum(1).mean() * logits[0].numel()
    return GAMMA / 2 * EVERY * total / len(several)


def sharpener_loss(critic: Critic, real: Tensor, seen: Tensor, drawn: Tensor, means: tuple[Tensor, Tensor]) -> Tensor:
    """Not to be told from real ones, in the critic's eyes like the picture looked at, and of the means' colours.

    `means` are those that `seen` and `drawn` were made of.
    """
    on = changed(real, seen, drawn)
    with torch.no_grad():
        on_real, wanted = critic(on[0])
    on_seen, found = critic(on[1])
    on_drawn, _ = critic(on[2])
    loss = (softplus(on_real - on_seen).mean() + softplus(on_real - on_drawn).mean()) / 2
    for one, other in zip(found, wanted, strict=True):
        # Each layer counts alike, however large its numbers are.
        loss = loss + ALIKE / len(found) * (one - other).abs().mean() / other.abs().mean().clamp(min=1e-6)
    for picture, mean in zip((seen, drawn), means, strict=True):
        loss = loss + KEPT / 2 * avg_pool2d(picture - mean, COARSE).square().mean()
    return loss
