"""Temperatures and calibration errors of known probabilities."""

import pytest
import torch

from imggen.metrics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, calibration_error, fit_temperature


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


def test_temperatures_stay_within_their_limits() -> None:
    """Scores that are wrong, or right by next to nothing, have their best temperature at a limit."""
    labels = torch.arange(40) % 4
    wrong, timid = torch.eye(4)[(labels + 1) % 4], torch.eye(4)[labels] * 1e-6
    assert fit_temperature(wrong, labels) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(timid, labels) == pytest.approx(MIN_TEMPERATURE)
    assert fit_temperature(timid, labels) >= MIN_TEMPERATURE and fit_temperature(wrong, labels) <= MAX_TEMPERATURE


def test_the_error_of_sure_and_wrong_guesses() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 10)
    assert calibration_error(probabilities, torch.tensor([0] * 9 + [1])) == pytest.approx(0, abs=1e-6)
    assert calibration_error(probabilities, torch.tensor([1] * 10)) == pytest.approx(0.9)


def test_a_few_right_images_do_not_make_all_others_certain() -> None:
    scores = torch.eye(3)[torch.arange(30) % 3]
    sureness = (scores / fit_temperature(scores, torch.arange(30) % 3)).softmax(1).max(1).values
    assert 0.9 < float(sureness.mean()) < 0.99
