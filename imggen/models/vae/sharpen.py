"""A network after the decoder that makes its means sharper.

A mean is the average of all that may be there, and so is soft where much may be. The network adds what is missing to
be told from a real picture by none of the critic's patches, and to look to the critic's own features like the picture
that was looked at. The ladder itself is not touched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle, silu

from imggen.models.critic import Critic, deceit_loss
from imggen.models.vae.config import Config

BLOCKS = 4
PATCH = 2  # the network works on squares of so many pixels
ALIKE = 0.2  # weight of the critic's features
COARSE, KEPT = 4, 10.0  # squares whose colour is to stay the mean's, and the weight of that


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
        self.restart()

    def restart(self) -> None:
        """Give the means back."""
        self.ready.zero_()
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, mean: Tensor, output: Tensor) -> Tensor:
        """See above."""
        x = self.enter(pixel_unshuffle(torch.cat([mean, output], 1), PATCH))
        for block in self.blocks:
            x = x + BLOCKS**-0.5 * block(x)
        return (mean + pixel_shuffle(self.leave(silu(x)), PATCH)).clamp(-1, 1)


def sharpener_loss(critic: Critic, real: Tensor, seen: Tensor, drawn: Tensor, means: tuple[Tensor, Tensor]) -> Tensor:
    """Not to be told from real ones, in the critic's eyes like the picture looked at, and of the means' colours.

    `means` are those that `seen` and `drawn` were made of.
    """
    told, apart = deceit_loss(critic, real, seen, drawn)
    loss = told + ALIKE * apart
    for picture, mean in zip((seen, drawn), means, strict=True):
        loss = loss + KEPT / 2 * avg_pool2d(picture - mean, COARSE).square().mean()
    return loss
