"""The discriminator's augmentation: twice differentiable, sampled for every image, invertible in distribution."""

import pytest
import torch

from imggen.data.dataset import mirror
from imggen.models import build_learner, presets
from imggen.models.augment import AdaptiveStrength, Augmentation, random_augmentation
from imggen.models.gan.learner import GanLearner

CPU = torch.device("cpu")


def augmentation_of(count: int = 4, channels: int = 3, size: int = 8, strength: float = 0.8) -> Augmentation:
    torch.manual_seed(0)
    return random_augmentation((count, channels, size, size), strength, CPU)


def double(augmentation: Augmentation) -> Augmentation:
    return Augmentation(augmentation.grid.double(), augmentation.color.double(), augmentation.keep.double())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_derivatives_of_both_orders(channels: int) -> None:
    augment = double(augmentation_of(3, channels, 4))
    images = torch.rand(3, channels, 4, 4, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(augment, (images,))
    assert torch.autograd.gradgradcheck(lambda x: augment(x.square()), (images,))


def test_strength_0_is_the_identity() -> None:
    images = torch.rand(5, 4, 16, 16) * 2 - 1
    assert torch.allclose(augmentation_of(5, 4, 16, 0.0)(images), images, atol=1e-6)


def test_every_image_has_its_own_augmentation() -> None:
    image = (torch.rand(1, 3, 16, 16) * 2 - 1).expand(64, -1, -1, -1)
    changed = augmentation_of(64, 3, 16, 0.6)(image)
    different = {tuple(row.flatten().tolist()) for row in changed}
    assert len(different) > 50
    assert changed.shape == image.shape and torch.isfinite(changed).all()


def test_images_are_augmented_as_often_as_the_strength_says() -> None:
    image = (torch.rand(1, 3, 16, 16) * 2 - 1).expand(2000, -1, -1, -1)
    untouched = [
        float(
            torch.isclose(augmentation_of(2000, 3, 16, strength)(image), image, atol=1e-5)
            .flatten(1)
            .all(1)
            .float()
            .mean()
        )
        for strength in (0.05, 0.1, 0.3)
    ]
    assert untouched[0] > untouched[1] > untouched[2] > 0
    # Sixteen transformations, each with about the strength or half of it: 1 - 0.05, to a power between 8 and 16.
    assert 0.95**18 < untouched[0] < 0.95**6


def test_quarter_turns_and_flips_do_not_interpolate() -> None:
    """Where only flips, quarter turns and whole-pixel translations happen, no pixel is a mixture of others."""
    images = torch.randint(0, 5, (400, 1, 8, 8)).float()
    torch.manual_seed(3)
    augmentation = random_augmentation(images.shape, 0.15, CPU)
    geometric = Augmentation(
        augmentation.grid, torch.tensor([[[1.0, 0.0]]]).expand(400, -1, -1), torch.ones(400, 1, 8, 8)
    )
    changed = geometric(images)
    whole = (changed - changed.round()).abs().flatten(1).amax(1) < 1e-4
    moved = (changed - images).abs().flatten(1).amax(1) > 0.5
    assert (whole & moved).sum() > 20


def test_alpha_is_unchanged() -> None:
    images = torch.full((200, 4, 8, 8), 0.5)
    augmentation = augmentation_of(200, 4, 8, 0.8)
    changed = Augmentation(augmentation.grid, augmentation.color, torch.ones(200, 1, 8, 8))(images)
    assert torch.allclose(changed[:, 3], images[:, 3], atol=1e-5)
    assert not torch.allclose(changed[:, :3], images[:, :3], atol=0.1)


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_the_identity_is_the_most_likely_orientation(strength: float) -> None:
    """So the augmentation is invertible in distribution: no other flip or quarter turn is as frequent."""
    torch.manual_seed(0)
    # The orientation is that of the grid's corners where nothing but flips, turns and translations has happened.
    grid = random_augmentation((40_000, 1, 2, 2), strength, CPU).grid
    linear = torch.stack([grid[:, 0, 1] - grid[:, 0, 0], grid[:, 1, 0] - grid[:, 0, 0]], 2)
    quarter_turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turns = [torch.linalg.matrix_power(quarter_turn, k) for k in range(4)]
    orientations = turns + [turn @ torch.diag(torch.tensor([-1.0, 1.0])) for turn in turns]
    counts = [int((linear - each).abs().flatten(1).amax(1).lt(1e-3).sum()) for each in orientations]
    assert counts[0] > 1.15 * sorted(counts)[-2]
    assert min(counts) > 0


@pytest.mark.slow
def test_augmentation_does_not_leak() -> None:
    """Bright above, dark below: generated images are so, though the discriminator sees them rotated and inverted."""
    config = presets("gan")["tiny"].with_overrides(
        size=16, channels=1, width=8, max_width=16, learning_rate=4e-3, augment=0.3, encoder_fraction=0.0
    )
    torch.manual_seed(0)
    learner = build_learner(config)
    assert isinstance(learner, GanLearner)
    learner.set_dataset_size(10)
    learner.augmentation.target = -1.0  # the strength rises to its limit and stays there
    learner.augmentation.ramp_images = 1_000
    ramp = torch.linspace(0.9, -0.9, 16)[None, None, :, None].expand(16, 1, 16, 16)
    for index in range(230):
        torch.manual_seed(index)
        images = (ramp + 0.1 * torch.randn(16, 1, 16, 16)).clamp(-1, 1)
        metrics = learner.step(images.contiguous(memory_format=torch.channels_last), None, index / 230, index * 16)
    assert float(metrics["augment"]) == pytest.approx(0.3)
    with torch.no_grad():
        generated = learner.backend.generate(torch.randn(64, config.z_dim))
    upper, lower = generated[:, :, :6].mean((1, 2, 3)), generated[:, :, -6:].mean((1, 2, 3))
    left, right = generated[..., :6].mean((1, 2, 3)), generated[..., -6:].mean((1, 2, 3))
    assert (upper > 0.2).float().mean() > 0.95 and (lower < -0.2).float().mean() > 0.95
    assert (left - right).abs().mean() < 0.3


def test_strength_follows_the_signs() -> None:
    adaptive = AdaptiveStrength(0.5, 1000)
    for _ in range(200):
        adaptive.update(1.0, 10)
    assert adaptive.strength == 0.5
    for _ in range(200):
        adaptive.update(0.2, 10)
    assert adaptive.strength == 0.0


def test_mirror_flips_some() -> None:
    images = torch.arange(4.0).expand(100, 1, 4, 4)
    flipped = mirror(images)[:, 0, 0, 0] == 3
    assert 20 < int(flipped.sum()) < 80
    assert torch.equal(mirror(images, 0.0), images)
