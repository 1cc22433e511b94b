"""What the shipped models have learned to see: digits of another hand than they were trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import one_hot

from imggen.engine.checkpoints import load_model
from imggen.metrics.crossvalidation import cross_validate
from imggen.models import build_backend
from imggen.models.base import Backend

COUNT, CLASSES, SIDE = 200, 10, 32
NEIGHBORS = (1, 3, 5)
# A probe of the trained models is right for 0.47 to 0.56 of the digits, of untrained ones for 0.26 to 0.31; of pixels
# the nearest neighbors for 0.40.
MARGIN_OVER_UNTRAINED, MARGIN_OVER_PIXELS = 0.12, 0.04


def printed_digit(label: int, chance: np.random.Generator) -> np.ndarray:
    """A digit of a font, of random size and weight, moved by up to 4 pixels and turned by up to 20 degrees."""
    image = Image.new("L", (SIDE, SIDE))
    font = ImageFont.load_default(int(chance.integers(20, 29)))
    position = tuple(SIDE / 2 + chance.integers(-4, 5, 2))
    stroke = int(chance.integers(2))
    ImageDraw.Draw(image).text(position, str(label), fill=255, font=font, anchor="mm", stroke_width=stroke)
    return np.asarray(image.rotate(float(chance.uniform(-20, 20)), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Images (200, 1, 32, 32) in [-1, 1] and their labels."""
    chance, labels = np.random.default_rng(0), torch.arange(COUNT) % CLASSES
    images = np.stack([printed_digit(int(label), chance) for label in labels])
    return torch.from_numpy(images).float()[:, None] / 127.5 - 1, labels


def probe(vectors: Tensor, labels: Tensor) -> float:
    """The accuracy of logistic regression in five-fold cross-validation."""
    vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-3)
    return float(cross_validate(8 * vectors / vectors.shape[1] ** 0.5, labels, CLASSES).float().mean())


def nearest_by_pixels(images: Tensor, labels: Tensor) -> float:
    """The accuracy of the best number of nearest neighbors, each image by all others."""
    distances = torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(torch.inf)
    found = [labels[distances.topk(count, largest=False).indices] for count in NEIGHBORS]
    votes = [one_hot(each, CLASSES).sum(1).argmax(1) for each in found]
    return max(float((each == labels).float().mean()) for each in votes)


@pytest.mark.parametrize("name", ["gan-digits", "vae-digits", "transformer-digits"])
def test_a_trained_model_sees_more_than_an_untrained_one_and_pixels(name: str, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    trained = load_model(name, device="cpu").backend
    torch.manual_seed(0)
    untrained = build_backend(trained.config).eval()

    def accuracy(backend: Backend) -> float:
        features = backend.features(images)
        assert features is not None
        return probe(features.vectors.float(), labels)

    seen = accuracy(trained)
    assert seen > accuracy(untrained) + MARGIN_OVER_UNTRAINED
    assert seen > nearest_by_pixels(images, labels) + MARGIN_OVER_PIXELS
