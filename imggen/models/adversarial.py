"""Adversarial losses, the gradient penalty, and the augmentation of what a discriminator sees.

Used by the GAN and by the patch discriminator that sharpens the images of the other families.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from imggen.models.augment import random_augmentation


def bce_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy on logits: real images have target 1, fake images target 0 (arXiv 1406.2661)."""
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def bce_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss: binary cross-entropy of fake images with target 1 (arXiv 1406.2661)."""
    return softplus(-fake_logits).mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing loss: each real image should score higher than its fake (arXiv 1807.00734, 2501.05441)."""
    return softplus(fake_logits - real_logits).mean()


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing loss: each fake image should score higher than its real one."""
    return softplus(real_logits - fake_logits).mean()


def zero_centered_gradient_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean squared norm of the discriminator's gradient at `images` (B, C, H, W).

    R1 at real images (arXiv 1801.04406), R2 at fake ones; without the weight gamma / 2. `discriminator` returns logits
    (B,), or one for each patch, (B, 1, h, w). Call it outside autocast: the penalty needs float32.
    """
    images = images.detach().float().requires_grad_(True)
    logits = discriminator(images)
    image_logits = logits.mean((1, 2, 3)) if logits.ndim == 4 else logits
    (gradient,) = torch.autograd.grad(image_logits.sum(), images, create_graph=True)
    # Where patches do not overlap, the mean of n logits has 1/n of the squared gradient norm of one: multiply by n.
    return gradient.square().flatten(1).sum(1).mean() * logits[0].numel()


def augment_alike(*batches: Tensor, strength: float, on_white: bool) -> tuple[Tensor, ...]:
    """Augment batches of images (B, C, H, W) that a discriminator is about to classify.

    Row i of every batch gets the same random augmentation, so that real and fake images do not differ by it; each
    call samples another. At strength 0 nothing is sampled. With `on_white`, images with alpha are composited first.
    """
    shape, device = batches[0].shape, batches[0].device
    augmentation = random_augmentation(shape, strength, device) if strength > 0 else None
    composite = on_white and shape[1] == 4
    with torch.autocast(device.type, enabled=False):
        if composite:
            batches = tuple(composite_on_white(images) for images in batches)
        return batches if augmentation is None else tuple(augmentation(images) for images in batches)


def composite_on_white(images: Tensor) -> Tensor:
    """Composite the colors of images (B, 4, H, W) on white and keep alpha: invisible colors no longer differ."""
    alpha = (images[:, 3:] + 1) / 2
    colors = images[:, :3] * alpha + (1 - alpha)
    return torch.cat([colors, images[:, 3:]], 1).contiguous(memory_format=torch.channels_last)
