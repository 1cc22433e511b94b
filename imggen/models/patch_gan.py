"""A patch discriminator that makes blurred reconstructions sharper, for the VAE and the transformer's tokenizer.

Relativistic pairing loss (Jolicoeur-Martineau 2018, arXiv 1807.00734) with R1 and R2 penalties (Huang et al. 2024,
arXiv 2501.05441), and feature matching in the discriminator's layers (Larsen et al. 2015, arXiv 1512.09300).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from imggen.models import global_batch
from imggen.models.adversarial import (
    augment_alike,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    zero_centered_gradient_penalty,
)
from imggen.models.training import cosine_decay, set_learning_rate

PATCH_MAP_SIZE = 8  # side in pixels of the coarsest feature map
AUGMENT_STRENGTH = 0.3  # strength of the augmentation of the discriminator's input images, constant
PENALTY_GAMMA, PENALTY_EVERY = 0.3, 8  # its weight, and the steps between two penalties
RATE = 1e-3  # learning rate at the start

Apply = Callable[..., None]


class PatchDiscriminator(nn.Module):
    """Images (B, C, H, W) → logits (B, 1, h, w), one for each patch, and the feature maps of the hidden layers."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        widths, side = [width], size
        while side > PATCH_MAP_SIZE:
            side //= 2
            widths.append(min(2 * widths[-1], 4 * width))
        self.enter = nn.Conv2d(channels, widths[0], 3, 1, 1)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, higher for patches that look real, and features from fine to coarse."""
        x = leaky_relu(self.enter(images), 0.2)
        features = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.leave(x), features


def discriminator_loss(critic: PatchDiscriminator, real: Tensor, *fakes: Tensor) -> Tensor:
    """Relativistic loss of real images against each batch of fakes (detached), averaged over the batches."""
    real, *augmented_fakes = _augmented(real, *(fake.detach() for fake in fakes))
    real_logits = critic(real)[0]
    losses = [relativistic_discriminator_loss(real_logits, critic(fake)[0]) for fake in augmented_fakes]
    return torch.stack(losses).mean()


def generator_loss(critic: PatchDiscriminator, real: Tensor, *fakes: Tensor) -> tuple[Tensor, Tensor]:
    """Adversarial loss of each batch of fakes, averaged, and feature matching loss of the first batch.

    The first batch must be reconstructions of the real images. Feature matching is the mean absolute difference in
    every hidden layer relative to the mean magnitude there, so that all layers have equal weight.
    """
    real, *augmented_fakes = _augmented(real, *fakes)
    with torch.no_grad():
        real_logits, real_features = critic(real)
        magnitudes = global_batch.mean_over_parts(torch.stack([target.abs().mean() for target in real_features]))
    outputs = [critic(fake) for fake in augmented_fakes]
    adversarial = torch.stack([relativistic_generator_loss(real_logits, logits) for logits, _ in outputs]).mean()
    differences = [
        (features - target).abs().mean() / magnitude.clamp(min=1e-6)
        for features, target, magnitude in zip(outputs[0][1], real_features, magnitudes, strict=True)
    ]
    return adversarial, torch.stack(differences).mean()


def gradient_penalty(critic: PatchDiscriminator, *batches: Tensor) -> Tensor:
    """R1 or R2 penalty averaged over batches of images, weighted for a step in `PENALTY_EVERY`; float32."""
    total = torch.zeros((), device=batches[0].device)
    for images in batches:
        total = total + zero_centered_gradient_penalty(lambda x: critic(*_augmented(x))[0], images)
    return PENALTY_GAMMA / 2 * PENALTY_EVERY * total / len(batches)


def learning_rate(progress: float) -> float:
    """Learning rate of the discriminator, and of a network trained only against it: `RATE` down to a tenth of it."""
    return RATE * cosine_decay(progress, 0.1)


def _augmented(*batches: Tensor) -> tuple[Tensor, ...]:
    return augment_alike(*batches, strength=AUGMENT_STRENGTH, on_white=True)


class DiscriminatorTrainer:
    """A patch discriminator, its Adam, and the discriminator's part of a training step."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        self.critic = PatchDiscriminator(channels, size, width)
        self.adam_critic = torch.optim.Adam(self.critic.parameters(), lr=RATE, betas=(0.0, 0.99), fused=True)
        self.steps = 0

    def learn(
        self,
        parts: Iterable[tuple[float, Tensor, tuple[Tensor, ...]]],
        progress: float,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """Train the discriminator for one step, then freeze it: the generator's step needs no gradients of it.

        Each part is a micro-batch: its fraction of the batch, real images, and batches of fakes, the first of which
        are reconstructions of the real images. `apply` takes the optimizer's step, or raises NonFiniteError.
        """
        set_learning_rate([self.adam_critic], learning_rate(progress))
        self.critic.requires_grad_(True)
        losses: dict[str, Tensor] = {}

        def add(name: str, loss: Tensor) -> None:
            torch.autograd.backward(loss)
            losses[name] = losses.get(name, torch.zeros_like(loss)) + loss.detach()

        for fraction, real, fakes in parts:
            with autocast(real.device):
                loss = discriminator_loss(self.critic, real, *fakes) * fraction
            add("critic", loss)
            if self.steps % PENALTY_EVERY == 0:
                add("penalty", gradient_penalty(self.critic, real, fakes[0]) * fraction)
        apply(self.adam_critic, *losses.values())
        self.critic.requires_grad_(False)
        self.steps += 1
        return losses
