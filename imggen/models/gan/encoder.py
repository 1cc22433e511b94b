"""The encoder of a GAN, an image or a part of it to its class and z, and its training on what the generator makes.

Samples of the generator have known classes. Its z starts the search of `inversion.py`, so what counts is not how near
to the sample's own z it is, of which other z give nearly the same image, but the image that it generates: in-domain GAN
inversion (Zhu et al. 2020, arXiv 2004.00049).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from imggen.models import global_batch
from imggen.models.adversarial import composite_on_white
from imggen.models.augment import mild_augmentation
from imggen.models.batch_norm import BatchNorm2d
from imggen.models.gan import dcgan, r3gan
from imggen.models.gan.config import GanConfig
from imggen.models.random_masks import random_masks

WIDTH, MAX_WIDTH = 24, 80  # channels at half of the image's size, doubled at each lower one, and at most
LEAKY_SLOPE = 0.2
WEIGHTS = {"classes": 1.0, "z": 0.05, "pixels": 5.0}  # of the losses
# One of so many samples is masked, and one of so many images generated again, which takes long.
MASKED_EVERY, REBUILT_EVERY = 2, 4


class Encoded(NamedTuple):
    """z (B, z_dim), and logits (B, classes) of the classes."""

    z: Tensor
    logits: Tensor


class Encoder(nn.Module):
    """Images (B, C, H, W), of which only the pixels are used where `unmasked` (B, 1, H, W) is 1, → `Encoded`.

    `trained` is 1 once its training has begun, 0 in checkpoints written before.
    """

    trained: Tensor

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, before, after = config.size, config.channels + 1, WIDTH
        while side > config.first_side:
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), BatchNorm2d(after), nn.LeakyReLU(LEAKY_SLOPE)]
            side, before, after = side // 2, after, min(2 * after, MAX_WIDTH)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(before * side**2, config.z_dim + len(config.classes))
        self.z_dim, self.on_white = config.z_dim, config.blend and config.channels == 4
        self.register_buffer("trained", torch.zeros(()))

    def features(self, images: Tensor, unmasked: Tensor) -> Tensor:
        """The last map (B, channels, first_side, first_side), as large as the generator's first one."""
        if self.on_white:
            images = composite_on_white(images)
        given = torch.cat([images * unmasked, unmasked], 1).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.layers(given)
        return features

    def forward(self, images: Tensor, unmasked: Tensor) -> Encoded:
        """Encode images."""
        output = self.head(self.features(images, unmasked).flatten(1)).float()
        return Encoded(output[:, : self.z_dim], output[:, self.z_dim :])


def encoder_losses(
    encoder: Encoder,
    generator: dcgan.Generator | r3gan.Generator,
    images: Tensor,
    labels: Tensor | None,
    noise: Tensor,
) -> dict[str, Tensor]:
    """The losses of an encoder by name, of one batch of real images (B, C, H, W) and B samples of noise (B, z_dim).

    "z" and "classes": of samples of the generator with the same labels, slightly changed, which are seen whole, and
    some of them masked, too. "pixels": how far the images generated from the z of some real images, masked or not, are
    from these, whose classes are learned as well.
    """
    with torch.no_grad():
        samples = generator(noise, labels)
    samples = mild_augmentation(samples.shape, 1.0, 1.0, 0.0, samples.device)(samples)
    # Evenly spaced, so that several processes take the same ones as a single process with their whole batch.
    masked, rebuilt = samples[::MASKED_EVERY], images[::REBUILT_EVERY]
    unmasked = torch.cat([torch.ones_like(samples[:, :1]), _random_unmasked(masked), _sometimes_unmasked(rebuilt)])
    z, logits = encoder(torch.cat([samples, masked, rebuilt]), unmasked)
    losses = {"z": (z[: len(noise)] - noise).square().mean()}
    rebuilt_labels = None
    if labels is not None:
        rebuilt_labels = labels[::REBUILT_EVERY]
        losses["classes"] = cross_entropy(logits, torch.cat([labels, labels[::MASKED_EVERY], rebuilt_labels]))
    again = generator(z[-len(rebuilt) :], rebuilt_labels)
    if encoder.on_white:
        again, rebuilt = composite_on_white(again), composite_on_white(rebuilt)
    losses["pixels"] = (again - rebuilt).square().mean()
    return losses


def _random_unmasked(images: Tensor) -> Tensor:
    """Where images (B, C, H, W) are not masked (B, 1, H, W), at random."""
    return 1 - random_masks(len(images), images.shape[-1], images.device)


def _sometimes_unmasked(images: Tensor) -> Tensor:
    """The same, but half of them are not masked at all."""
    is_whole = global_batch.rand(len(images), 1, 1, 1).to(images.device) < 0.5
    return torch.where(is_whole, 1.0, _random_unmasked(images))
