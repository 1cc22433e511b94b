"""Sampling and inverting values: exact inverses, the right frequencies, and temperature, top-k and top-p."""

import math

import pytest
import torch

from imggen.models.config import SamplingOptions
from imggen.models.transformer.sampling import (
    inverse_cdf,
    invert_tokens,
    noise_in_interval,
    normal_to_uniform,
    plan_order,
    probabilities,
    sample_tokens,
)
from tests.models.transformer.helpers import small_transformer

PLAIN = SamplingOptions()


def test_inversion_is_exact_in_every_interval() -> None:
    """Also for values of the lowest probability: float32 noise still selects their intervals."""
    logits = torch.tensor([[30.0, 0.0, -30.0, 5.0, -30.0], [-40.0, 40.0, -40.0, -40.0, -40.0]])
    distributions = probabilities(logits, PLAIN).repeat_interleave(5, 0)
    values = torch.arange(5).repeat(2)
    noise = noise_in_interval(distributions, values, torch.rand(10))
    assert torch.equal(inverse_cdf(distributions, normal_to_uniform(noise)), values)
    for shift in (1e-6, -1e-6):
        assert torch.equal(inverse_cdf(distributions, normal_to_uniform(noise + shift)), values)
        shifted = probabilities((logits + shift * torch.randn(2, 5)).float(), PLAIN).repeat_interleave(5, 0)
        assert torch.equal(inverse_cdf(shifted, normal_to_uniform(noise)), values)


@pytest.mark.parametrize("codes", [512, 1000, 4375, 15360])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_inversion_of_the_least_likely_of_many_codes(codes: int, t: float) -> None:
    """The causal prior's values are whole codes: any of them, beside one that has nearly all probability."""
    for likely in (0, codes // 2, codes - 1):
        logits = torch.full((codes,), -50.0)
        logits[likely] = 50.0
        distribution = probabilities(logits, PLAIN)
        assert distribution.sum().item() == pytest.approx(1)
        values = torch.cat([torch.arange(20), torch.randint(codes, (60,)), torch.arange(codes - 20, codes)])
        noise = noise_in_interval(distribution.expand(100, -1), values, torch.full((100,), t))
        assert torch.equal(inverse_cdf(distribution.expand(100, -1), normal_to_uniform(noise)), values)


def test_the_noise_of_inversion_is_standard_normal() -> None:
    """Like the noise of seeds, so that an interpolation between images passes through samples."""
    prior = small_transformer().prior
    plan, labels = [list(range(8)), list(range(8, 16))], torch.arange(600) % 3
    noise = torch.randn(600, 16, len(prior.factors), generator=torch.Generator().manual_seed(3))
    values = sample_tokens(prior, labels, plan, noise, PLAIN)
    inverted = invert_tokens(prior, labels, plan, values, PLAIN)
    assert inverted.mean().abs() < 0.1 and 0.9 < inverted.std() < 1.05
    assert torch.equal(sample_tokens(prior, labels, plan, inverted, PLAIN), values)


def test_sampled_frequencies_are_the_probabilities() -> None:
    """Of one value, with each option."""
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    uniform = normal_to_uniform(torch.randn(200_000, generator=torch.Generator().manual_seed(0)))
    for options in (PLAIN, SamplingOptions(temperature=0.5), SamplingOptions(top_k=2), SamplingOptions(top_p=0.8)):
        distribution = probabilities(logits, options)
        values = inverse_cdf(distribution.expand(len(uniform), -1), uniform)
        frequencies = torch.bincount(values, minlength=4) / len(uniform)
        assert (frequencies - distribution).abs().max() < 5e-3
        assert distribution.sum() == pytest.approx(1)


def test_the_first_token_has_the_probabilities_of_the_prior() -> None:
    prior = small_transformer(classes=False, codes=512).prior
    count = 2000
    noise = torch.randn(count, 16, 3, generator=torch.Generator().manual_seed(1))
    position = 8  # the first of Halton's order on a 4x4 grid
    values = torch.zeros(8, 16, 3, dtype=torch.int64)
    values[:, position, 0] = torch.arange(8)
    groups = torch.ones(8, 16, dtype=torch.int64)
    groups[:, position] = 0
    no_class = torch.zeros(count, dtype=torch.int64)
    expected = prior.log_probabilities(values, no_class[:8], groups)[:, position, 0].exp()
    plan = [[position], [other for other in range(16) if other != position]]
    sampled = sample_tokens(prior, no_class, plan, noise, PLAIN)
    frequencies = torch.bincount(sampled[:, position, 0], minlength=8) / count
    assert (frequencies - expected).abs().max() < 4 * math.sqrt(0.25 / count)
    assert expected.max() > 2 * expected.min()


def test_temperature_top_k_and_top_p() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    exact = logits.softmax(0).double()
    assert (probabilities(logits, PLAIN) - exact).abs().max() < 1e-4
    assert torch.equal(probabilities(logits, SamplingOptions(temperature=0)).float(), torch.tensor([0.0, 0, 1, 0]))
    for temperature in (0.5, 2.0):
        expected = (logits / temperature).softmax(0).double()
        assert (probabilities(logits, SamplingOptions(temperature=temperature)) - expected).abs().max() < 1e-3
    # Also of many codes: the temperature divides the logits, before the uniform distribution is mixed in.
    many = torch.full((4375,), -30.0)
    many[7] = 10.0
    assert probabilities(many, SamplingOptions(temperature=2.0))[7] > 0.99
    assert (probabilities(logits, SamplingOptions(top_k=2)) > 0).tolist() == [True, False, True, False]
    assert (probabilities(logits, SamplingOptions(top_p=0.6)) > 0).tolist() == [False, False, True, False]
    assert (probabilities(logits, SamplingOptions(top_p=0.7)) > 0).tolist() == [True, False, True, False]
    kept = probabilities(logits, SamplingOptions(top_k=2))
    assert float(kept[2] / kept[0]) == pytest.approx(math.e, rel=1e-3)
    # A value of probability 0 is not sampled, however large the noise.
    extreme = normal_to_uniform(torch.tensor([-9.0, 9.0]))
    assert inverse_cdf(kept.expand(2, -1), extreme).tolist() == [0, 2]


def test_the_order_of_a_plan() -> None:
    assert plan_order([[3, 1], [0], [2]], torch.device("cpu")).tolist() == [3, 1, 0, 2]
