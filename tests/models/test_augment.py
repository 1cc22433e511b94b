"""The discriminator's changes: differentiable twice, drawn for every picture, undone in distribution."""

import pytest
import torch

from imggen.data.dataset import mirror
from imggen.models import build_learner, presets
from imggen.models.augment import Changes, Steering, _Draw, _geometry, draw_changes
from imggen.models.gan.learner import GanLearner

CPU = torch.device("cpu")


def changes(count: int = 4, channels: int = 3, size: int = 8, strength: float = 0.8) -> Changes:
    torch.manual_seed(0)
    return draw_changes((count, channels, size, size), strength, CPU)


def double(drawn: Changes) -> Changes:
    return Changes(drawn.grid.double(), drawn.colour.double(), drawn.keep.double())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_derivatives_of_both_orders(channels: int) -> None:
    change = double(changes(3, channels, 6))
    images = torch.rand(3, channels, 6, 6, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(change, (images,))
    assert torch.autograd.gradgradcheck(lambda x: change(x.square()), (images,))


def test_no_strength_no_change() -> None:
    images = torch.rand(5, 4, 16, 16) * 2 - 1
    assert torch.allclose(changes(5, 4, 16, 0.0)(images), images, atol=1e-6)


def test_every_picture_has_its_own() -> None:
    image = (torch.rand(1, 3, 16, 16) * 2 - 1).expand(64, -1, -1, -1)
    changed = changes(64, 3, 16, 0.6)(image)
    different = {tuple(row.flatten().tolist()) for row in changed}
    assert len(different) > 50
    assert changed.shape == image.shape and torch.isfinite(changed).all()


def test_a_picture_is_changed_as_often_as_asked() -> None:
    image = (torch.rand(1, 3, 16, 16) * 2 - 1).expand(2000, -1, -1, -1)
    untouched = [
        float(torch.isclose(changes(2000, 3, 16, strength)(image), image, atol=1e-5).flatten(1).all(1).float().mean())
        for strength in (0.05, 0.1, 0.3)
    ]
    assert untouched[0] > untouched[1] > untouched[2] > 0
    # Sixteen things each happen with about their share of the strength; 1 - 0.05, to some power between 8 and 16.
    assert 0.95**18 < untouched[0] < 0.95**6


def test_turns_and_flips_take_pixels_as_they_are() -> None:
    """Where only flips, quarter turns and whole shifts happen no pixel is a mixture of others."""
    images = torch.randint(0, 5, (400, 1, 8, 8)).float()
    torch.manual_seed(3)
    drawn = draw_changes(images.shape, 0.15, CPU)
    still = Changes(drawn.grid, torch.tensor([[[1.0, 0.0]]]).expand(400, -1, -1), torch.ones(400, 1, 8, 8))
    changed = still(images)
    whole = (changed - changed.round()).abs().flatten(1).amax(1) < 1e-4
    moved = (changed - images).abs().flatten(1).amax(1) > 0.5
    assert (whole & moved).sum() > 20


def test_alpha_keeps_its_level() -> None:
    images = torch.full((200, 4, 8, 8), 0.5)
    drawn = changes(200, 4, 8, 0.8)
    changed = Changes(drawn.grid, drawn.colour, torch.ones(200, 1, 8, 8))(images)
    assert torch.allclose(changed[:, 3], images[:, 3], atol=1e-5)
    assert not torch.allclose(changed[:, :3], images[:, :3], atol=0.1)


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_no_change_is_the_likeliest_one(strength: float) -> None:
    """What can be undone in distribution: of the eight flips and turns, none is drawn as often as staying put."""
    torch.manual_seed(0)
    linear = _geometry(_Draw(40_000, strength), 8)[:, :2, :2]
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turns = [torch.linalg.matrix_power(turn, k) for k in range(4)]
    group = turns + [t @ torch.diag(torch.tensor([-1.0, 1.0])) for t in turns]
    counts = [int((linear - each).abs().flatten(1).amax(1).lt(1e-3).sum()) for each in group]
    assert counts[0] > 1.15 * sorted(counts)[-2]
    assert min(counts) > 0


def test_augmentation_does_not_leak() -> None:
    """Bright above, dark below: drawn pictures stay so though the discriminator sees them turned and inverted."""
    config = presets("gan")["tiny"].with_overrides(
        size=16, channels=1, width=8, max_width=16, learning_rate=2e-3, augment=0.3
    )
    torch.manual_seed(0)
    learner = build_learner(config)
    assert isinstance(learner, GanLearner)
    learner.expect(10)
    learner.steering.target = -1.0  # never content: up to the limit, and there it stays
    learner.steering.images = 1_000
    ramp = torch.linspace(0.9, -0.9, 16)[None, None, :, None].expand(32, 1, 16, 16)
    for index in range(350):
        torch.manual_seed(index)
        images = (ramp + 0.1 * torch.randn(32, 1, 16, 16)).clamp(-1, 1)
        metrics = learner.step(images.contiguous(memory_format=torch.channels_last), None, index / 350, index * 32)
    assert float(metrics["augment"]) == pytest.approx(0.3)
    with torch.no_grad():
        drawn = learner.backend.generate(torch.randn(64, config.z_dim))
    upper, lower = drawn[:, :, :6].mean((1, 2, 3)), drawn[:, :, -6:].mean((1, 2, 3))
    left, right = drawn[..., :6].mean((1, 2, 3)), drawn[..., -6:].mean((1, 2, 3))
    assert (upper > 0.2).float().mean() > 0.95 and (lower < -0.2).float().mean() > 0.95
    assert (left - right).abs().mean() < 0.3


def test_steering_follows_the_signs() -> None:
    steering = Steering(0.5, 1000)
    for _ in range(200):
        steering.update(1.0, 10)
    assert steering.strength == 0.5
    for _ in range(200):
        steering.update(0.2, 10)
    assert steering.strength == 0.0


def test_mirror_flips_some() -> None:
    images = torch.arange(4.0).expand(100, 1, 4, 4)
    flipped = mirror(images)[:, 0, 0, 0] == 3
    assert 20 < int(flipped.sum()) < 80
    assert torch.equal(mirror(images, 0.0), images)
