"""The VAE as a backend: bounds, inversion, inpainting, classes."""

import pytest
import torch

from imggen.models import build_backend
from imggen.models.config import SamplingOptions
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.hierarchy import Hierarchy
from tests.models.vae.helpers import bars, small_config

pytestmark = pytest.mark.slow


def noise_for(model: VaeBackend, count: int) -> torch.Tensor:
    return torch.randn(count, *model.noise_shape, generator=torch.Generator().manual_seed(0))


def bars_with_gap(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Level bars with a masked strip: what is on both sides of it determines where they are."""
    images, labels = bars(count, seed=seed)
    images = images[labels == 1][: count // 2]
    mask = torch.zeros(len(images), 1, 16, 16)
    mask[..., 6:10] = 1
    return images, mask


def masked_error(filled: torch.Tensor, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return ((filled - images).square() * mask).sum() / mask.sum()


@torch.no_grad()
def test_bounds_tighten_with_samples(unlabeled: VaeBackend) -> None:
    """With one sample the bound is the evidence lower bound on average; more samples give higher bounds."""
    images, _ = bars(32, seed=900)
    torch.manual_seed(0)
    elbo = torch.stack([unlabeled.log_likelihood(images) for _ in range(8)]).mean()
    one, ten, many = (
        torch.stack([unlabeled.importance_bound(images, num_samples=count) for _ in range(repeats)]).mean()
        for count, repeats in ((1, 8), (10, 3), (30, 3))
    )
    assert float(one) == pytest.approx(float(elbo), abs=1.5)
    assert one + 5 < ten and ten + 1 < many
    # Better than a uniform distribution: 8 bits per pixel.
    assert -elbo < 0.92 * 256 * 5.545


@torch.no_grad()
def test_information_of_the_layers(unlabeled: VaeBackend) -> None:
    images, _ = bars(16, seed=900)
    torch.manual_seed(0)
    information = unlabeled.layer_information(images)
    assert [*information] == [layer.name for layer in unlabeled.core.layers]
    assert all(nats.shape == (16,) and (nats > -1e-4).all() for nats in information.values())
    total = torch.stack([*information.values()]).sum(0)
    assert (total > 1).all() and len({name.split()[0] for name in information}) == 3


@torch.no_grad()
def test_generate_and_invert(unlabeled: VaeBackend) -> None:
    """`invert` returns the posterior's mean: generating from it gives the reconstruction."""
    images, _ = bars(12, seed=901)
    noise = unlabeled.invert(images).noise
    assert noise.shape == (12, *unlabeled.noise_shape)
    generated = unlabeled.generate(noise)
    assert torch.equal(generated, unlabeled.reconstruct(images))
    assert (generated - images).square().mean() < 0.2 * images.var()
    assert torch.allclose(unlabeled.invert(images[4:5]).noise, noise[4:5], atol=1e-3)
    # Further away in noise is further away in images.
    other = noise_for(unlabeled, 12)
    variations = [unlabeled.generate((1 - t**2) ** 0.5 * noise + t * other) for t in (0.0, 0.4, 1.0)]
    distances = [(variation - images).square().mean() for variation in variations]
    assert distances[0] < distances[1] < distances[2]


@torch.no_grad()
def test_temperature_changes_variety(unlabeled: VaeBackend) -> None:
    noise = noise_for(unlabeled, 64)
    spread = [
        float(unlabeled.generate(noise, options=SamplingOptions(temperature=t)).var(0).mean()) for t in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 1e-9 < spread[1] < spread[2]


def test_fills_fit_the_unmasked_pixels(unlabeled: VaeBackend) -> None:
    images, mask = bars_with_gap(64, seed=902)
    noise = noise_for(unlabeled, len(images))
    filled = unlabeled.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask)) and filled.abs().max() <= 1
    assert torch.equal(filled, unlabeled.inpaint(images, mask, noise))
    alone = unlabeled.inpaint(images[3:4], mask[3:4], noise[3:4])
    assert (alone - filled[3:4]).abs().max() < 1 / 255
    other = unlabeled.inpaint(images, mask, -noise)
    assert all(not torch.equal(a, b) for a, b in zip(filled, other, strict=True))
    error = masked_error(filled, images, mask)
    assert error < 0.5 * masked_error(filled.roll(1, 0), images, mask)
    with torch.no_grad():
        assert error < 0.5 * masked_error(unlabeled.generate(noise), images, mask)


def test_fills_differ_where_little_is_unmasked(unlabeled: VaeBackend) -> None:
    images, _ = bars(1, seed=903)
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :2, :2] = 0
    fills = unlabeled.inpaint(images.expand(8, -1, -1, -1), mask.expand(8, -1, -1, -1), noise_for(unlabeled, 8))
    distance = torch.pdist(fills.flatten(1)).mean()
    assert distance > 0.3 * torch.pdist(bars(30, seed=904)[0].flatten(1)).mean()


@torch.no_grad()
def test_the_partial_posterior_approaches_the_full_one(unlabeled: VaeBackend) -> None:
    """Their KL falls as more pixels are unmasked."""
    images, _ = bars(32, seed=905)
    partial_encoder, core = unlabeled.partial_encoder, unlabeled.core
    assert partial_encoder is not None and isinstance(core, Hierarchy)
    kl = []
    for columns in (2, 8, 16):
        unmasked = torch.zeros(32, 1, 16, 16)
        unmasked[..., :columns] = 1
        torch.manual_seed(0)
        losses = partial_encoder.matching_losses(core, images, unmasked, None)
        kl.append(float(torch.stack(losses).sum(0).mean()))
    assert kl[0] > kl[1] > kl[2] >= 0


def test_classes_are_recognized_by_likelihood(labeled_without_partial_encoder: VaeBackend) -> None:
    model = labeled_without_partial_encoder
    images, labels = bars(60, seed=906)
    inversion = model.invert(images)
    assert inversion.labels is not None and (inversion.labels == labels).float().mean() > 0.9
    mask = torch.zeros(60, 1, 16, 16)
    mask[..., 10:, 10:] = 1
    assert (model._class_scores(images, mask).argmax(1) == labels).float().mean() > 0.8
    assert torch.equal(inversion.noise, model.invert(images, inversion.labels).noise)
    assert build_backend(small_config()).invert(images).labels is None


def test_inpainting_without_a_partial_encoder(labeled_without_partial_encoder: VaeBackend) -> None:
    model = labeled_without_partial_encoder
    assert model.partial_encoder is None
    images, labels = bars(40, seed=907)
    mask = torch.zeros(40, 1, 16, 16)
    mask[..., 6:10, 6:10] = 1
    noise = noise_for(model, 40)
    filled = model.inpaint(images, mask, noise)
    assert torch.equal(filled * (1 - mask), images * (1 - mask))
    with torch.no_grad():
        assert masked_error(filled, images, mask) < 0.8 * masked_error(model.generate(noise, labels), images, mask)
    assert not torch.equal(filled, model.inpaint(images, mask, -noise))
    alone = model.inpaint(images[7:8], mask[7:8], noise[7:8])
    assert (alone - filled[7:8]).abs().max() < 1 / 255


def test_fills_have_a_class_that_fits_the_unmasked_pixels(labeled: VaeBackend) -> None:
    images, labels = bars(60, seed=908)
    mask = torch.zeros(60, 1, 16, 16)
    mask[..., 8:] = 1
    noise = noise_for(labeled, 60)
    assert (labeled._class_scores(images, mask).argmax(1) == labels).float().mean() > 0.65
    filled = labeled.inpaint(images, mask, noise)
    assert (labeled._class_scores(filled).argmax(1) == labels).float().mean() > 0.7
    # With almost nothing unmasked both classes are sampled, at temperature 0 only the more likely one.
    mask[:] = 1
    mask[..., :2, :2] = 0
    repeated = images[:1].expand(60, -1, -1, -1)
    upright = 1 - labeled._class_scores(labeled.inpaint(repeated, mask, noise)).argmax(1).float().mean()
    assert 0.1 < upright < 0.9
    cold = labeled.inpaint(repeated, mask, noise, options=SamplingOptions(temperature=0.0))
    assert (cold - cold[:1]).abs().max() < 1e-4
