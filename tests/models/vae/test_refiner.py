"""The refiner: what it adds, what it leaves alone, and that the likelihood is withheld then."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from imggen.errors import UsageError
from imggen.models import build_backend
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.learner import VaeLearner
from imggen.models.vae.refiner import Refiner
from tests.models.vae.helpers import ADAM_ONLY, SMALL, assert_resumes_bit_exactly, small_config, vae_learner

GRAINY = {**SMALL, **ADAM_ONLY, "z": 1, "width": 16, "likelihood": "gaussian", "learning_rate": 4e-3}


def grain(count: int, seed: int, channels: int = 1) -> Tensor:
    """A gray level per image, and grain that one latent per position cannot hold: means must be smooth."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(count, 1, 1, 1, generator=generator) - 0.5
    grains = torch.randint(0, 2, (count, channels, 16, 16), generator=generator) * 0.8 - 0.4
    return level + grains


def roughness(images: Tensor) -> float:
    """RMS difference of pixels from the mean of their 2x2 square."""
    coarse = interpolate(avg_pool2d(images, 2), scale_factor=2)
    return float((images - coarse).square().mean().sqrt())


def run(learner: VaeLearner, first: int, last: int, total: int, channels: int = 1) -> None:
    for index in range(first, last):
        torch.manual_seed(index)
        learner.step(grain(8, index, channels), None, index / total, index * 8)


@pytest.mark.slow
def test_images_become_as_rough_as_real_ones_and_keep_their_colors() -> None:
    learner = vae_learner(small_config(**{**GRAINY, "sharpen": 0.6, "inpaint_fraction": 0.0}))
    run(learner, 0, 60, 150)
    backend = learner.backend
    noise = torch.randn(64, *backend.noise_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        means, before = backend.generate(noise), {k: v.clone() for k, v in backend.core.state_dict().items()}
        assert not backend.limitation("likelihood")
    run(learner, 60, 61, 150)  # after the first step it nearly returns the means
    with torch.no_grad():
        assert (backend.generate(noise) - means).abs().max() < 0.05
    run(learner, 61, 150, 150)
    with torch.no_grad():
        sharp = backend.generate(noise)
    real = roughness(grain(64, 9999))
    assert roughness(means) < 0.1 * real
    assert 0.4 * real < roughness(sharp) < 1.6 * real
    assert avg_pool2d(sharp - means, 8).abs().mean() < 0.1
    assert all(torch.equal(value, before[name]) for name, value in backend.core.state_dict().items())
    # Reconstructions and fills are refined too; unmasked pixels stay as they are.
    images, mask = grain(8, 5), torch.zeros(8, 1, 16, 16)
    mask[..., 8:] = 1
    assert roughness(backend.reconstruct(images)) > 0.4 * real
    filled = backend.inpaint(images, mask, noise[:8])
    assert torch.equal(filled[..., :8], images[..., :8]) and roughness(filled[..., 8:]) > 0.4 * real
    assert torch.allclose(backend.generate(noise[5:6]), sharp[5:6], atol=1e-5)
    # The likelihood would be that of other images.
    assert "refiner" in backend.limitation("likelihood")


@pytest.mark.slow
def test_resuming_across_three_stages_is_bit_exact() -> None:
    """Of twelve steps the VAE has four, the refiner five and the partial encoder three."""

    def run_of_twelve(learner: VaeLearner, first: int, last: int) -> None:
        run(learner, first, last, 12)

    learner = assert_resumes_bit_exactly(
        small_config(sharpen=0.42, inpaint_fraction=0.25), run_of_twelve, (3, 5, 7, 9, 10)
    )
    assert learner.refiner_trainer is not None and learner.refiner_trainer.steps == 5 and learner.partial_encoder_stage


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_and_alpha(channels: int) -> None:
    learner = vae_learner(small_config(channels=channels, sharpen=0.5, inpaint_fraction=0.0, likelihood="dmol"))
    run(learner, 0, 6, 6, channels)
    backend = learner.backend
    images = backend.generate(torch.randn(3, *backend.noise_shape))
    assert images.shape == (3, channels, 16, 16) and images.abs().max() <= 1 and backend.limitation("likelihood")


def test_an_untrained_refiner_is_not_used() -> None:
    """A checkpoint written before the refiner's stage generates means and has a likelihood."""
    backend = build_backend(small_config(sharpen=0.3)).eval()
    plain = build_backend(small_config()).eval()
    assert isinstance(backend, VaeBackend) and isinstance(plain, VaeBackend)
    plain.load_state_dict({k: v for k, v in backend.state_dict().items() if not k.startswith("refiner.")})
    assert isinstance(backend.refiner, Refiner)
    with torch.no_grad():
        for weight in backend.refiner.parameters():
            weight.add_(1.0)
        noise = torch.randn(3, *backend.noise_shape)
        assert torch.equal(backend.generate(noise), plain.generate(noise))
    assert not backend.limitation("likelihood")


def test_configurations_that_are_refused() -> None:
    for wrong in (
        {"sharpen": 0.9, "inpaint_fraction": 0.5},
        {"sharpen": 0.2, "likelihood": "bernoulli"},
        {"sharpen": 0.2, "size": 20},
    ):
        with pytest.raises(UsageError, match="sharpen"):
            small_config(**wrong)
