"""Noise and classes of seeds."""

import torch

from imggen.engine.noise import SampleSpec, noise_for
from tests.helpers import small_gan

COUNTS = (5, 90, 5)


def test_noise_is_standard_normal() -> None:
    noise, labels = noise_for([SampleSpec(seed) for seed in range(2000)], small_gan())
    assert labels is None
    assert noise.mean().abs() < 0.01 and (noise.std() - 1).abs() < 0.01
    correlation = (noise[1:] * noise[:-1]).mean(1)
    assert correlation.abs().max() < 0.6 and correlation.mean().abs() < 0.01


def test_classes_have_the_frequencies_of_the_data() -> None:
    backend = small_gan(class_counts=COUNTS)
    noise, labels = noise_for([SampleSpec(seed) for seed in range(2000)], backend)
    assert labels is not None
    fractions = torch.bincount(labels, minlength=3) / 2000
    assert 0.86 < fractions[1] < 0.94 and fractions[0] > 0.02 and fractions[2] > 0.02
    same_noise, given = noise_for([SampleSpec(5, 2), SampleSpec(6)], backend)
    assert given is not None and given[0] == 2 and given[1] == labels[6]
    assert torch.equal(same_noise, noise[5:7])
