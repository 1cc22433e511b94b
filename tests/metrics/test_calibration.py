"""Temperatures and calibration errors of known probabilities."""

import pytest
import torch

from imggen.metrics.calibration import MAX_TEMPERATURE, calibration_error, fit_temperature


@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_the_temperature_of_known_scores_is_found(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20_000, 5, generator=generator) * 2
    labels = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(scores * temperature, labels) == pytest.approx(temperature, rel=0.05)
    probabilities = (scores * temperature / fit_temperature(scores * temperature, labels)).softmax(1)
    assert calibration_error(probabilities, labels) < 0.015
    assert calibration_error((scores * 8).softmax(1), labels) > 0.2


def test_scores_that_say_nothing_get_the_highest_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(5_000, 4, generator=generator), torch.randint(4, (5_000,), generator=generator)
    assert fit_temperature(scores, labels) > MAX_TEMPERATURE / 100


def test_the_error_of_sure_and_wrong_guesses() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 10)
    assert calibration_error(probabilities, torch.tensor([0] * 9 + [1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(probabilities, torch.tensor([1] * 10)) == pytest.approx(0.9)


def test_a_few_right_images_do_not_make_all_others_certain() -> None:
    scores = torch.eye(3)[torch.arange(30) % 3]
    sureness = (scores / fit_temperature(scores, torch.arange(30) % 3)).softmax(1).max(1).values
    assert 0.9 < float(sureness.mean()) < 0.99
