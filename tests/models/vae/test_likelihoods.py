"""Likelihoods of pixels: probabilities sum to one, means are right, numbers stay finite."""

import itertools
import math

import pytest
import torch

from imggen.models.vae.likelihoods import Bernoulli, Gaussian, MixtureOfLogistics, build_likelihood
from tests.models.vae.helpers import small_config


def all_values(channels: int, channel: int) -> torch.Tensor:
    """256 images of one pixel with every value of one channel; the other channels are constant."""
    images = torch.full((256, channels, 1, 1), 51 / 127.5 - 1)
    images[:, channel, 0, 0] = torch.arange(256) / 127.5 - 1
    return images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_mixture_of_logistics_sums_to_one(channels: int) -> None:
    """Over the 256 values of the last channel, which is conditional on all others."""
    likelihood = MixtureOfLogistics(small_config(channels=channels, mixtures=4))
    last = likelihood.channel_order[-1]
    torch.manual_seed(channels)
    for spread in (0.3, 1.0, 5.0):
        output = torch.randn(1, likelihood.outputs, 1, 1) * spread
        total = likelihood.log_prob(output.expand(256, -1, -1, -1), all_values(channels, last)).double().exp().sum()
        # The other channels' probability: every logistic of the last channel far to the left.
        shifted = output.clone()
        k, n = 4, channels
        shifted[:, k + (n - 1) * k : k + n * k] = -1e4
        others = likelihood.log_prob(shifted, all_values(channels, last)[:1]).double().exp().sum()
        assert float(total / others) == pytest.approx(1, abs=2e-4)
    if channels == 1:
        assert float(total) == pytest.approx(1, abs=2e-4)


def test_three_channels_sum_to_one() -> None:
    """All three channels have 16 million values: sum over the 40 x 40 x 40 that have nearly all the probability."""
    likelihood = MixtureOfLogistics(small_config(channels=3, mixtures=2))
    torch.manual_seed(0)
    output = torch.randn(1, likelihood.outputs, 1, 1)
    # Small scales and means near 0: all other values have almost no probability.
    output[:, 2 + 6 : 2 + 12] = -8.0
    grid = torch.tensor(list(itertools.product(range(40), repeat=3))) - 20
    means = output[0, 2:8, 0, 0].view(3, 2)
    output[0, 2:8, 0, 0] = (means * 0.01).flatten()
    output[0, 14:] = 0.0
    values = (grid + 128) / 127.5 - 1
    total = likelihood.log_prob(output.expand(len(values), -1, -1, -1), values.view(-1, 3, 1, 1)).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_the_mean_of_a_mixture_is_that_of_its_values() -> None:
    likelihood = MixtureOfLogistics(small_config(channels=1, mixtures=3))
    for seed in range(5):
        torch.manual_seed(seed)
        output = torch.randn(1, likelihood.outputs, 1, 1) * 2
        images = all_values(1, 0)
        probabilities = likelihood.log_prob(output.expand(256, -1, -1, -1), images).exp().flatten()
        expected = float((probabilities * images.flatten()).sum())
        assert float(likelihood.mean(output)) == pytest.approx(expected, abs=1 / 255)


def test_extreme_outputs_stay_finite() -> None:
    for channels in (1, 3, 4):
        likelihood = MixtureOfLogistics(small_config(channels=channels))
        for size in (0.0, 50.0, -50.0, 1e4):
            output = torch.full((2, likelihood.outputs, 3, 3), size, requires_grad=True)
            images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, channels, 3, 3)
            log_prob = likelihood.log_prob(output, images)
            log_prob.sum().backward()
            assert torch.isfinite(log_prob).all() and torch.isfinite(output.grad).all()
            assert likelihood.mean(output).abs().max() <= 1


def test_a_gaussian_sums_to_one_and_has_the_optimal_variance() -> None:
    likelihood = Gaussian(small_config(channels=1, likelihood="gaussian"))
    images = torch.randn(400, 1, 8, 8) * 0.1
    likelihood.train()
    nats = likelihood.log_prob(torch.zeros_like(images), images)
    assert float(likelihood.variance) == pytest.approx(0.01, rel=0.05)
    # The entropy of that Gaussian, for bins of 2/255.
    assert float(nats.mean()) == pytest.approx(-(0.5 * math.log(2 * math.pi * math.e * 0.01)) + math.log(2 / 255), 0.02)
    likelihood.eval()
    for center in (-1.3, -0.97, 0.0, 0.4, 1.0):
        output = torch.full((256, 1, 1, 1), center)
        total = likelihood.log_prob(output, all_values(1, 0)).double().exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-3)


def test_bernoulli_binarizes_anew_each_time() -> None:
    likelihood = Bernoulli(small_config(channels=1, likelihood="bernoulli"))
    images = torch.full((4000, 1, 1, 1), 0.5)
    torch.manual_seed(0)
    one, two = likelihood.training_images(images), likelihood.training_images(images)
    assert set(one.unique().tolist()) == {-1.0, 1.0} and not torch.equal(one, two)
    assert float((one > 0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert not torch.isfinite(likelihood.training_images(images * torch.nan)).any()
    logit = torch.full((2, 1, 1, 1), 0.7)
    pair = likelihood.log_prob(logit, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)).exp()
    assert float(pair.sum()) == pytest.approx(1)
    assert likelihood.binarized and not build_likelihood(small_config()).binarized


def test_transparent_components_do_not_fade_colors() -> None:
    """Opaque red or transparent white, equally likely: half-transparent red, not pink."""
    likelihood = MixtureOfLogistics(small_config(channels=4, mixtures=2))
    output = torch.zeros(1, likelihood.outputs, 1, 1)
    means = output[:, 2:10].view(1, 4, 2, 1, 1)  # alpha first, then the colors; two logistics each
    means[0, :, :, 0, 0] = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]])
    output[:, 10:18] = -20.0  # narrow
    red, green, blue, alpha = ((likelihood.mean(output)[0, :, 0, 0] + 1) * 127.5).tolist()
    assert red > 250 and green < 5 and blue < 5 and alpha == pytest.approx(127.5, abs=2)


def test_a_typical_color_is_one_of_the_mixture_and_no_blend() -> None:
    """Blue with weight 0.6 or red with 0.4, both opaque: blue, where the mean is violet."""
    likelihood = MixtureOfLogistics(small_config(channels=4, mixtures=2))
    output = torch.zeros(1, likelihood.outputs, 1, 1)
    output[0, :2, 0, 0] = torch.tensor([0.6, 0.4]).log()
    means = output[:, 2:10].view(1, 4, 2, 1, 1)
    means[0, :, :, 0, 0] = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    output[:, 10:18] = -20.0  # narrow
    assert ((likelihood.typical(output)[0, :, 0, 0] + 1) * 127.5).tolist() == pytest.approx([0, 0, 255, 255])
    red, green, blue, alpha = ((likelihood.mean(output)[0, :, 0, 0] + 1) * 127.5).tolist()
    assert [red, green, blue, alpha] == pytest.approx([102, 0, 153, 255], abs=1)


def test_typical_images_of_one_distribution_are_its_mean() -> None:
    torch.manual_seed(0)
    for likelihood in (Gaussian(small_config(channels=3, likelihood="gaussian")), Bernoulli(small_config(channels=1))):
        output = torch.randn(2, likelihood.outputs, 4, 4)
        assert torch.equal(likelihood.typical(output), likelihood.mean(output))
