"""The GAN's encoder: what it learns of a generator, and its part of the training."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imggen.models import build_backend, build_learner
from imggen.models.gan.encoder import WEIGHTS, Encoder, encoder_losses
from imggen.models.gan.learner import GanLearner
from tests.models.gan.test_gan import config, learner_of

CLASSES: dict[str, Any] = {"classes": ("rows", "columns"), "class_counts": (1, 1)}


class Stripes(nn.Module):
    """A generator whose class is the direction of a gradient, and whose first z is the brightness."""

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        slope = torch.linspace(-0.4, 0.4, 16).expand(len(z), 1, 16, 16)
        images = torch.where(labels.view(-1, 1, 1, 1) == 0, slope.mT, slope)
        return images + 0.3 * z[:, 0].tanh().view(-1, 1, 1, 1)


def samples(count: int) -> tuple[Tensor, Tensor, Tensor]:
    labels, noise = torch.arange(count) % 2, torch.randn(count, 4)
    return Stripes()(noise, labels), labels, noise


@pytest.fixture(scope="module")
def trained() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(config(z_dim=4, encoder_fraction=0.1, **CLASSES))
    adam = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    for _ in range(60):
        losses = encoder_losses(encoder, Stripes(), *samples(32))
        torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum().backward()
        adam.step()
        adam.zero_grad()
    return encoder.eval()


def test_it_finds_class_and_brightness(trained: Encoder) -> None:
    torch.manual_seed(1)
    images, labels, _ = samples(100)
    with torch.no_grad():
        z, logits = trained(images, torch.ones_like(images))
        error = (Stripes()(z, labels) - images).square().mean()
    assert (logits.argmax(1) == labels).float().mean() > 0.95
    assert error < 0.25 * images.mean((1, 2, 3)).var()


def test_it_does_not_see_what_is_masked(trained: Encoder) -> None:
    torch.manual_seed(1)
    images, labels, _ = samples(100)
    unmasked = torch.ones_like(images)
    unmasked[:, :, 4:12, 6:14] = 0
    with torch.no_grad():
        z, logits = trained(images, unmasked)
        again, _ = trained(torch.where(unmasked > 0, images, torch.randn_like(images)), unmasked)
    assert torch.equal(z, again)
    assert (logits.argmax(1) == labels).float().mean() > 0.8


def run_steps(learner: GanLearner, *steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 16, 16, generator=generator) * 2 - 1
    for step in steps:
        torch.manual_seed(step)
        learner.step(images, torch.arange(8) % 2, step / 10, step * 8)


def state_of(learner: GanLearner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, document = learner.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, copy.deepcopy(document)


def test_its_stage_changes_nothing_else_and_resumes_exactly() -> None:
    given = config(encoder_fraction=0.5, **CLASSES)
    learner = learner_of(given)
    run_steps(learner, 0, 3)
    backend = learner.backend
    images = torch.rand(4, 1, 16, 16)
    assert backend.class_scores(images) is None and backend.limitation("classes") == "it has no trained encoder"
    before = state_of(learner)[0]
    run_steps(learner, 6, 7)
    middle = state_of(learner)
    changed = {name for name, tensor in middle[0].items() if name in before and not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("average.encoder.") for name in changed)
    scores = backend.class_scores(images)
    assert backend.limitation("classes") == "" and scores is not None and not backend.training
    assert torch.allclose(scores.exp().sum(1), torch.ones(4))

    run_steps(learner, 8)
    resumed = learner_of(given)
    resumed.load_state(*middle)
    run_steps(resumed, 8)
    after = state_of(resumed)[0]
    assert all(torch.equal(tensor, after[name]) for name, tensor in state_of(learner)[0].items())


def test_it_counts_as_untrained_when_the_generator_is_trained_further() -> None:
    learner = learner_of(config(encoder_fraction=0.5, **CLASSES))
    run_steps(learner, 7, 8)
    assert learner.backend.class_scores(torch.zeros(1, 1, 16, 16)) is not None
    run_steps(learner, 3)
    assert learner.backend.class_scores(torch.zeros(1, 1, 16, 16)) is None
    assert not any(name.startswith("adam_e.") for name in learner.state()[0])


def test_a_trained_generator_gets_one_alone() -> None:
    """With a fraction of 1 all steps are the encoder's, and the generator stays as it was given."""
    source = build_backend(config(encoder_fraction=0.0, **CLASSES))
    learner = learner_of(config(encoder_fraction=1.0, **CLASSES))
    weights = {**learner.backend.state_dict(), **source.state_dict()}
    learner.begin_from(weights)
    run_steps(learner, 0, 5, 9)
    kept = learner.backend.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in source.state_dict().items())
    assert learner.backend.limitation("classes") == ""


def test_the_textbook_has_none() -> None:
    learner = build_learner(config("dcgan", **CLASSES))
    assert isinstance(learner, GanLearner) and learner.backend.encoder is None
    assert not any("encoder" in name for name in learner.state()[0])
