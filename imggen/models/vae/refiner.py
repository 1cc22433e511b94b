"""A network after the decoder that makes its means sharper.

A mean is the average of all that may be there, and so is soft where much may be. The network adds what is missing to
be told from a real picture by none of the critic's patches, and to look to the critic's own features like the picture
that was looked at. The ladder itself is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle, silu

from imggen.models.patch_gan import RATE, Apply, DiscriminatorTrainer, PatchDiscriminator, generator_loss, learning_rate
from imggen.models.training import EMA
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.likelihoods import Likelihood

BLOCKS = 4
PATCH = 2  # the network works on squares of so many pixels
ALIKE = 0.2  # weight of the critic's features
COARSE, KEPT = 4, 10.0  # squares whose colour is to stay the mean's, and the weight of that


class Refiner(nn.Module):
    """The likelihood's mean (B, C, H, W) and its input (B, outputs, H, W) → pictures (B, C, H, W) in [-1, 1].

    At first it gives the means back. `ready` is 1 once it has begun to learn: a checkpoint may be older than that.
    """

    ready: Tensor

    def __init__(self, config: VaeConfig, outputs: int) -> None:
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


def refiner_loss(
    critic: PatchDiscriminator, real: Tensor, seen: Tensor, drawn: Tensor, means: tuple[Tensor, Tensor]
) -> Tensor:
    """Not to be told from real ones, in the critic's eyes like the picture looked at, and of the means' colours.

    `means` are those that `seen` and `drawn` were made of.
    """
    told, apart = generator_loss(critic, real, seen, drawn)
    loss = told + ALIKE * apart
    for picture, mean in zip((seen, drawn), means, strict=True):
        loss = loss + KEPT / 2 * avg_pool2d(picture - mean, COARSE).square().mean()
    return loss


Outputs = tuple[Tensor, Tensor]


class RefinerTrainer(DiscriminatorTrainer):
    """The sharpener, its critic, their Adams, and the averaged sharpener, which is the one that is shown."""

    def __init__(self, config: VaeConfig, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
        self.network = Refiner(config, likelihood.outputs)
        super().__init__(config.channels, config.size, config.width)
        self.average = EMA(self.network, config.ema_images)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.0, 0.99), fused=True)

    @property
    def shown(self) -> Refiner:
        """The averaged one."""
        network = self.average.network
        assert isinstance(network, Refiner)
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """sharpener, critic."""
        return {"sharpener": self.network, "critic": self.critic}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_sharpener, adam_critic."""
        return {"adam_sharpener": self.adam, "adam_critic": self.adam_critic}

    def forget(self) -> None:
        """The ladder learns on: its means are given back as they are; what was learnt of them begins anew later."""
        self.steps = 0
        for network in (self.network, self.shown):
            network.restart()
        for optimiser in self.optimizers.values():
            optimiser.state.clear()

    def step(
        self,
        batches: Callable[[], Iterable[tuple[float, Tensor, Outputs]]],
        progress: float,
        images: int,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """The critic first, then the sharpener.

        A batch is its share of the step, real pictures, and the likelihood's input for those as the posterior sees
        them and for as many drawn ones; in several parts they are worked out twice, to bound the memory.
        `images` is what all processes see in the step; `apply` takes an optimiser's step, or raises NonFiniteError.
        """
        self.network.ready.fill_(1)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(progress)
        kept: list[tuple[float, Tensor, Outputs]] = []

        def softened() -> Iterator[tuple[float, Tensor, tuple[Tensor, ...]]]:
            for share, real, outputs in batches():
                kept[:] = [(share, real, outputs)] if share == 1 else []
                with torch.no_grad(), autocast(real.device):
                    soft = self._sharp(outputs[0]), self._sharp(outputs[1])
                yield share, real, soft

        seen_before = self.steps * images
        losses = self.learn(softened(), progress, apply, autocast)
        losses["sharper"] = self.network.ready.new_zeros(())
        for share, real, outputs in kept or batches():
            means = (self.likelihood.mean(outputs[0]), self.likelihood.mean(outputs[1]))
            with autocast(real.device):
                seen, drawn = self._sharp(outputs[0]), self._sharp(outputs[1])
                loss = refiner_loss(self.critic, real, seen, drawn, means) * share
            torch.autograd.backward(loss)
            losses["sharper"] += loss.detach()
        apply(self.adam, losses["sharper"])
        self.average.update(self.network, images, seen_before)
        return losses

    def _sharp(self, output: Tensor) -> Tensor:
        found: Tensor = self.network(self.likelihood.mean(output), output)
        return found.float()
