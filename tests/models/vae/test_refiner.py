"""The stage that makes pictures sharper: what it adds, what it leaves alone, what is no longer said."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from imggen.errors import UsageError
from imggen.models import build_backend, build_learner
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.learner import VaeLearner
from imggen.models.vae.refiner import Refiner
from tests.models.vae.test_vae import SMALL, config

GRAINY = {**SMALL, "z": 1, "width": 16, "likelihood": "gaussian", "learning_rate": 4e-3}
GRAINY |= {"muon_rate": 0.0, "weight_decay": 0.0}


def grain(count: int, seed: int, channels: int = 1) -> Tensor:
    """A grey level a picture, and grain on it that one latent a place cannot hold: means must be smooth."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(count, 1, 1, 1, generator=generator) - 0.5
    grains = torch.randint(0, 2, (count, channels, 16, 16), generator=generator) * 0.8 - 0.4
    return level + grains


def roughness(pictures: Tensor) -> float:
    """How far pixels are from the mean of their square of four."""
    coarse = torch.nn.functional.interpolate(avg_pool2d(pictures, 2), scale_factor=2)
    return float((pictures - coarse).square().mean().sqrt())


def run(learner: VaeLearner, first: int, last: int, total: int, channels: int = 1) -> None:
    for index in range(first, last):
        torch.manual_seed(index)
        learner.step(grain(16, index, channels), None, index / total, index * 16)


@pytest.fixture(scope="module")
def learner() -> VaeLearner:
    torch.manual_seed(0)
    found = build_learner(config(**{**GRAINY, "sharpen": 0.6, "filling": 0.0}))
    assert isinstance(found, VaeLearner)
    run(found, 0, 100, 250)
    return found


def test_pictures_become_as_rough_as_real_ones_and_keep_their_colours(learner: VaeLearner) -> None:
    backend = learner.backend
    noise = torch.randn(64, *backend.noise_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        means, before = backend.generate(noise), {k: v.clone() for k, v in backend.core.state_dict().items()}
        assert not backend.withheld and backend.log_likelihood(grain(4, 1)) is not None
    run(learner, 100, 101, 250)  # the first step alone: it gives the means back but for a trace
    with torch.no_grad():
        assert (backend.generate(noise) - means).abs().max() < 0.05
    run(learner, 101, 250, 250)
    with torch.no_grad():
        sharp = backend.generate(noise)
    real = roughness(grain(64, 9999))
    assert roughness(means) < 0.1 * real
    assert 0.4 * real < roughness(sharp) < 1.6 * real
    assert avg_pool2d(sharp - means, 8).abs().mean() < 0.1
    assert all(torch.equal(value, before[name]) for name, value in backend.core.state_dict().items())
    # Every way of showing a picture goes through it; what is known of one with a hole stays as it is.
    images, mask = grain(8, 5), torch.zeros(8, 1, 16, 16)
    mask[..., 8:] = 1
    assert roughness(backend.reconstruct(images)) > 0.4 * real
    filled = backend.inpaint(images, mask, noise[:8])
    assert torch.equal(filled[..., :8], images[..., :8]) and roughness(filled[..., 8:]) > 0.4 * real
    assert torch.allclose(backend.generate(noise[5:6]), sharp[5:6], atol=1e-5)
    # The bits would be those of other pictures.
    assert "sharpened" in backend.withheld and backend.log_likelihood(images) is None


@pytest.mark.parametrize("pause", [3, 5, 7, 9, 10])
def test_resuming_across_three_stages_is_bit_exact(pause: int) -> None:
    """Of twelve steps the model has four, the sharpener five and the partial encoder three."""
    settings = config(sharpen=0.42, filling=0.25)
    torch.manual_seed(0)
    whole, first = build_learner(settings), build_learner(settings)
    first.load_state(*whole.state())
    second = build_learner(settings)
    assert isinstance(whole, VaeLearner) and isinstance(first, VaeLearner) and isinstance(second, VaeLearner)
    run(whole, 0, 12, 12)
    run(first, 0, pause, 12)
    tensors, document = first.state()
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    run(second, pause, 12, 12)
    expected, found = whole.state(), second.state()
    assert expected[1] == found[1] and expected[0].keys() == found[0].keys()
    for name, value in expected[0].items():
        assert torch.equal(value, found[0][name]), name
    assert whole.sharpening is not None and whole.sharpening.steps == 5 and whole.filling


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_and_alpha(channels: int) -> None:
    settings = config(channels=channels, sharpen=0.5, filling=0.0, likelihood="dmol")
    learner = build_learner(settings)
    assert isinstance(learner, VaeLearner)
    run(learner, 0, 6, 6, channels)
    backend = learner.backend
    pictures = backend.generate(torch.randn(3, *backend.noise_shape))
    assert pictures.shape == (3, channels, 16, 16) and pictures.abs().max() <= 1 and backend.withheld


def test_a_checkpoint_from_before_shows_means_and_tells_its_bits() -> None:
    backend = build_backend(config(sharpen=0.3)).eval()
    plain = build_backend(config()).eval()
    assert isinstance(backend, VaeBackend) and isinstance(plain, VaeBackend)
    plain.load_state_dict({k: v for k, v in backend.state_dict().items() if not k.startswith("sharpener.")})
    assert isinstance(backend.sharpener, Refiner)
    with torch.no_grad():
        for weight in backend.sharpener.parameters():
            weight.add_(1.0)
        noise = torch.randn(3, *backend.noise_shape)
        assert torch.equal(backend.generate(noise), plain.generate(noise)) and not backend.withheld


def test_where_it_cannot_be() -> None:
    for wrong in (
        {"sharpen": 0.9, "filling": 0.5},
        {"sharpen": 0.2, "likelihood": "bernoulli"},
        {"sharpen": 0.2, "size": 20},
    ):
        with pytest.raises(UsageError, match="sharpen"):
            config(**wrong)
