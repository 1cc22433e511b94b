"""Probabilities that mean what they say: one temperature for all scores, and how far they are off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 1000.0
_GOLDEN = 0.6180339887498949
_ROUNDS = 60


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature that makes softmax(scores / temperature) most likely for the labels.

    Scores (N, C) in nats, labels (N,) int64 (Guo et al. 2017, arXiv 1706.04599). The likelihood has one maximum in
    1 / temperature, which is found by golden-section search. As if one image more had each label equally (as Platt 1999
    does for two classes): a few images, all of them right, do not make all others certain.
    """
    scores = scores.double()
    smoothing = 1 / (len(labels) + 1)

    def loss(log_temperature: float) -> float:
        logits = scores / math.exp(log_temperature)
        return float(torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing))

    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(_ROUNDS):
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(first) < loss(second):
            high = second
        else:
            low = first
    return min(max(math.exp((low + high) / 2), MIN_TEMPERATURE), MAX_TEMPERATURE)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of probabilities (N, C): how far, on average, sureness and accuracy are apart.

    Images are divided by the probability of their most likely class into `bins` intervals of equal width (Naeini et al.
    2015); the differences of mean probability and accuracy are averaged by the number of images.
    """
    sureness, guesses = probabilities.max(1)
    return sureness_error(sureness.double(), (guesses == labels).double(), bins)


def sureness_error(sureness: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """The same for the probabilities (N,) of the guesses, and whether (N,) they are correct (0 or 1), float64."""
    index = (sureness * bins).long().clamp(max=bins - 1)
    gaps = torch.bincount(index, sureness - correct, minlength=bins)
    return float(gaps.abs().sum()) / max(1, len(correct))
