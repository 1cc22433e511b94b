"""The refiner: a network after the decoder that makes its means sharper, trained adversarially.

The likelihood's mean averages over all plausible images, so it is blurred where they differ. The refiner adds the
missing detail: a patch discriminator should not be able to tell its images from real ones, and reconstructions should
have the real images' features in the discriminator. The VAE itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle, silu

from imggen.models.patch_gan import RATE, Apply, DiscriminatorTrainer, PatchDiscriminator, generator_loss, learning_rate
from imggen.models.training import EMA
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.likelihoods import Likelihood

BLOCKS = 4
PATCH = 2  # side in pixels of the patches that the network works on
FEATURE_MATCHING_WEIGHT = 0.2
COLOR_POOL, COLOR_WEIGHT = 4, 10.0  # keep the colors of the means: pool size in pixels, weight of the squared error
ADAM_BETAS = (0.0, 0.99)


class Refiner(nn.Module):
    """The likelihood's mean (B, C, H, W) and parameters (B, outputs, H, W) -> images (B, C, H, W) in [-1, 1].

    At first it returns the means. `trained` is 1 once its training has begun, 0 in checkpoints written before.
    """

    trained: Tensor

    def __init__(self, config: VaeConfig, outputs: int) -> None:
        super().__init__()
        width = config.width
        self.conv_in = nn.Conv2d(PATCH**2 * (config.channels + outputs), width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(BLOCKS)
        )
        self.conv_out = nn.Conv2d(width, PATCH**2 * config.channels, 3, 1, 1)
        self.register_buffer("trained", torch.zeros(()))
        self.reset()

    def reset(self) -> None:
        """Return the means again: zero the last convolution."""
        self.trained.zero_()
        nn.init.zeros_(self.conv_out.weight)
        assert self.conv_out.bias is not None
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, mean: Tensor, output: Tensor) -> Tensor:
        """`output` holds the likelihood's parameters, `mean` their mean."""
        x = self.conv_in(pixel_unshuffle(torch.cat([mean, output], 1), PATCH))
        for block in self.blocks:
            x = x + BLOCKS**-0.5 * block(x)
        return (mean + pixel_shuffle(self.conv_out(silu(x)), PATCH)).clamp(-1, 1)


class RefinerBatch(NamedTuple):
    """A micro-batch: its fraction of the step's images, real images, and parameters of the likelihood for two batches.

    `reconstruction` (B, outputs, H, W) comes from the posterior of the real images, `sample` from the prior.
    """

    fraction: float
    real: Tensor
    reconstruction: Tensor
    sample: Tensor


def refiner_loss(discriminator: PatchDiscriminator, real: Tensor, refined: list[Tensor], means: list[Tensor]) -> Tensor:
    """Adversarial loss, feature matching of the reconstructions, and squared error of the colors of large pixels.

    `refined` and `means` are (reconstructions, samples) after and before the refiner.
    """
    adversarial, feature_distance = generator_loss(discriminator, real, *refined)
    loss = adversarial + FEATURE_MATCHING_WEIGHT * feature_distance
    for images, mean in zip(refined, means, strict=True):
        loss = loss + COLOR_WEIGHT / 2 * avg_pool2d(images - mean, COLOR_POOL).square().mean()
    return loss


class RefinerTrainer(DiscriminatorTrainer):
    """The refiner, its discriminator, their Adams, and the refiner's EMA."""

    def __init__(self, config: VaeConfig, likelihood: Likelihood) -> None:
        self.likelihood = likelihood
        self.network = Refiner(config, likelihood.outputs)
        super().__init__(config.channels, config.size, config.width)
        self.ema = EMA(self.network, config.ema_images)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=ADAM_BETAS, fused=True)

    @property
    def averaged(self) -> Refiner:
        """The refiner with averaged weights, which the backend uses."""
        network = self.ema.network
        assert isinstance(network, Refiner)
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: refiner, critic."""
        return {"refiner": self.network, "critic": self.critic}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Keys: adam_refiner, adam_critic."""
        return {"adam_refiner": self.adam, "adam_critic": self.adam_critic}

    def reset(self) -> None:
        """Reset the refiner to the identity: its training starts again when the VAE has been trained further."""
        self.steps = 0
        for network in (self.network, self.averaged):
            network.reset()
        for optimizer in self.optimizers.values():
            optimizer.state.clear()

    def step(
        self,
        batches: Callable[[], Iterable[RefinerBatch]],
        progress: float,
        num_images: int,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """Train the discriminator, then the refiner; returns their losses.

        Several micro-batches are computed twice, by calling `batches` again, to bound the memory. `num_images` counts
        the step's images of all processes; `apply` takes an optimizer's step, or raises NonFiniteError.
        """
        self.network.trained.fill_(1)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(progress)
        images_seen = self.steps * num_images
        only_batch: list[RefinerBatch] = []

        def refined_batches() -> Iterator[tuple[float, Tensor, tuple[Tensor, ...]]]:
            for batch in batches():
                only_batch[:] = [batch] if batch.fraction == 1 else []
                with torch.no_grad(), autocast(batch.real.device):
                    refined = (self._refine(batch.reconstruction), self._refine(batch.sample))
                yield batch.fraction, batch.real, refined

        # Train the discriminator
        losses = self.learn(refined_batches(), progress, apply, autocast)

        # Train the refiner
        losses["refiner"] = self.network.trained.new_zeros(())
        for fraction, real, *outputs in only_batch or batches():
            means = [self.likelihood.mean(output) for output in outputs]
            with autocast(real.device):
                refined = [self._refine(output) for output in outputs]
                loss = refiner_loss(self.critic, real, refined, means) * fraction
            torch.autograd.backward(loss)
            losses["refiner"] += loss.detach()
        apply(self.adam, losses["refiner"])
        self.ema.update(self.network, num_images, images_seen)
        return losses

    def _refine(self, output: Tensor) -> Tensor:
        return self.network(self.likelihood.mean(output), output).float()
