"""Losses, gradient penalty and augmentation that the GAN and the patch discriminator share."""

import math

import pytest
import torch

from imggen.models.adversarial import (
    augment_alike,
    bce_discriminator_loss,
    bce_generator_loss,
    composite_on_white,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    zero_centered_gradient_penalty,
)


def test_only_differences_count_in_the_relativistic_loss() -> None:
    real, fake = torch.randn(8), torch.randn(8)
    for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
        assert torch.allclose(loss(real, fake), loss(real + 3, fake + 3))
    assert not torch.allclose(bce_discriminator_loss(real, fake), bce_discriminator_loss(real + 3, fake + 3))


def test_losses_are_those_of_the_papers() -> None:
    real, fake = torch.randn(8), torch.randn(8)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones(8)) + bce(fake, torch.zeros(8))
    assert torch.allclose(bce_discriminator_loss(real, fake), expected, atol=1e-6)
    assert torch.allclose(bce_generator_loss(fake), bce(fake, torch.ones(8)), atol=1e-6)
    assert torch.allclose(relativistic_discriminator_loss(real, fake), bce(real - fake, torch.ones(8)), atol=1e-6)
    assert torch.allclose(relativistic_generator_loss(real, fake), bce(fake - real, torch.ones(8)), atol=1e-6)
    assert relativistic_generator_loss(real, real) == pytest.approx(math.log(2))


@pytest.mark.parametrize("patches", [False, True])
def test_the_penalty_is_the_squared_norm_of_the_gradient(patches: bool) -> None:
    weight = torch.randn(3, 4, 4)
    images = torch.randn(5, 3, 4, 4)

    def logits(x: torch.Tensor) -> torch.Tensor:
        # Four patches of 2x2 pixels: a logit each.
        products = (weight * x).unflatten(3, (2, 2)).unflatten(2, (2, 2)).sum((1, 3, 5))[:, None]
        return products if patches else products.sum((1, 2, 3))

    # The gradient of the mean over four patches is a quarter as long, its square a sixteenth; times four.
    expected = weight.square().sum() / (4 if patches else 1)
    assert torch.allclose(zero_centered_gradient_penalty(logits, images), expected)


def test_the_penalty_can_be_minimized() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    penalty = zero_centered_gradient_penalty(lambda x: scale * x.sum((1, 2, 3)), torch.randn(2, 3, 4, 4))
    torch.autograd.backward(penalty)
    assert float(penalty.detach()) == pytest.approx(4 * 48)
    assert scale.grad is not None and float(scale.grad) == pytest.approx(2 * 2 * 48)


def test_batches_are_augmented_alike_and_each_call_differs() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8) * 2 - 1
    one, other = augment_alike(images, images.clone(), strength=0.8, on_white=True)
    assert torch.equal(one, other) and not torch.equal(one, images)
    (again,) = augment_alike(images, strength=0.8, on_white=True)
    assert not torch.equal(one, again)


def test_without_strength_nothing_is_sampled() -> None:
    images = torch.rand(2, 4, 8, 8) * 2 - 1
    torch.manual_seed(0)
    (same,) = augment_alike(images, strength=0.0, on_white=False)
    (composited,) = augment_alike(images, strength=0.0, on_white=True)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(same, images) and torch.equal(composited, composite_on_white(images))


def test_invisible_colors_become_white() -> None:
    images = torch.rand(1, 4, 2, 2) * 2 - 1
    images[:, 3] = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])
    composited = composite_on_white(images)
    assert torch.allclose(composited[:, :3, :, 0], torch.ones(1, 3, 2))
    assert torch.allclose(composited[:, :3, :, 1], images[:, :3, :, 1])
    assert torch.equal(composited[:, 3], images[:, 3])
