"""Probabilities that mean what they say: one temperature for all scores, and how far they are off."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 1000.0
_GOLDEN = 0.6180339887498949
_ROUNDS = 60


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature that makes softmax(scores / temperature) most likely for the labels.

    Scores (N, C) in nats, labels (N,) int64 (Guo et al. 2017, arXiv 1706.04599). The likelihood has one maximum in
    1 / temperature, which is found by golden-section search.
    """
    scores = scores.double()

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / torch.tensor(log_temperature).double().exp(), labels))

    low, high = (float(torch.tensor(limit).double().log()) for limit in (MIN_TEMPERATURE, MAX_TEMPERATURE))
    for _ in range(_ROUNDS):
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(first) < loss(second):
            high = second
        else:
            low = first
    return float(torch.tensor((low + high) / 2).double().exp())


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of probabilities (N, C): how far, on average, sureness and accuracy are apart.

    Images are divided by the probability of their most likely class into `bins` intervals of equal width (Naeini et al.
    2015); the differences of mean probability and accuracy are averaged by the number of images.
    """
    sureness, guesses = probabilities.max(1)
    correct = (guesses == labels).double()
    index = (sureness * bins).long().clamp(max=bins - 1)
    total = sum(float((sureness.double() - correct)[index == number].sum().abs()) for number in range(bins))
    return total / max(1, len(labels))
