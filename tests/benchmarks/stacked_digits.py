"""The stacked-digits test of mode coverage (Metz et al. 2017, arXiv 1611.02163; Lin et al. 2018, arXiv 1712.04086).

    python tests/benchmarks/stacked_digits.py make --data mnist.zip -o stacked.zip
    imggen train gan --data stacked.zip --minutes 12 -o runs/stacked
    python tests/benchmarks/stacked_digits.py count --data mnist.zip --model runs/stacked

An image is three digits, one in each color channel: 1,000 modes. 26,000 samples are classified channel by channel, by
linear discriminants on the features of `imggen evaluate`; their accuracy on held-out digits is printed first. KL is the
divergence of the modes' frequencies from uniform ones, in nats; the same is printed for 26,000 images of the data.
"""

from __future__ import annotations

import argparse
import io
import zipfile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, load_dataset
from imggen.engine.checkpoints import load_backend
from imggen.engine.noise import SampleSpec
from imggen.engine.render import sample_batches
from imggen.io.image import ImageArray
from imggen.metrics.distances import Discriminant
from imggen.metrics.features import Features, load_features
from imggen.reporting import Silent

NUM_SAMPLES = 26_000
NUM_DIGITS = 10


def load_digits(data: str, split: str) -> Dataset:
    """One split of the digits, 32 px, gray, with classes."""
    return load_dataset(data, DataOptions(size=32, channels=1, split=split), max_size=32, reporter=Silent())


def stack_digits(dataset: Dataset, count: int, seed: int) -> tuple[ImageArray, Tensor]:
    """Images (N, 32, 32, 3) of three random digits each, and their modes (N,), 0 to 999."""
    rows = np.random.default_rng(seed).integers(len(dataset), size=(count, 3))
    images = np.stack([np.asarray(dataset.images)[rows[:, channel], :, :, 0] for channel in range(3)], axis=3)
    labels = torch.from_numpy(dataset.labels[rows])
    return images, labels @ torch.tensor([100, 10, 1])


def make(data: str, output: str, count: int) -> None:
    """Write the images into a zip."""
    images, _ = stack_digits(load_digits(data, "train"), count, 0)
    with zipfile.ZipFile(output, "x") as archive:
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(f"{index:06d}.png", buffer.getvalue())


def classify(features: Features, discriminant: Discriminant, images: ImageArray) -> Tensor:
    """The mode (N,) of each image (N, 32, 32, 3)."""
    channels = [
        (features.extract(images[..., channel : channel + 1]).double() @ discriminant.weights + discriminant.bias)
        for channel in range(3)
    ]
    return torch.stack([logits.argmax(1) for logits in channels], 1) @ torch.tensor([100, 10, 1])


def summary(name: str, modes: Tensor) -> str:
    """The number of modes that occur, and the divergence of their frequencies from uniform ones."""
    counts = torch.bincount(modes, minlength=NUM_DIGITS**3).double()
    frequencies = counts / counts.sum()
    kl = float((frequencies * (frequencies * NUM_DIGITS**3).clamp(min=1e-12).log()).sum())
    return f"{name}: {int((counts > 0).sum())} of {NUM_DIGITS**3} modes, KL {kl:.4f} nats, of {len(modes):,} images"


def count(data: str, model: str) -> None:
    """Print how many modes the model generates."""
    features = load_features(None, torch.device("cpu"))
    train, test = load_digits(data, "train"), load_digits(data, "test")
    train_features = features.extract(np.asarray(train.images))
    discriminant = Discriminant(train_features, torch.from_numpy(np.asarray(train.labels)), NUM_DIGITS)
    correct = discriminant.correct(features.extract(np.asarray(test.images)), torch.from_numpy(np.asarray(test.labels)))
    print(f"accuracy on held-out digits: {float(correct.mean()):.2%}")
    backend = load_backend(model).backend.for_inference()
    modes_of_samples = list(
        sample_batches(
            backend, map(SampleSpec, range(NUM_SAMPLES)), lambda _, part: classify(features, discriminant, part)
        )
    )
    print(summary("model", torch.cat(modes_of_samples)))
    images, modes = stack_digits(train, NUM_SAMPLES, 1)
    print(summary("data, as classified", classify(features, discriminant, images)))
    print(summary("data, true labels", modes))


def main() -> None:
    """Make the images, or count the modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "count"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="runs/stacked")
    parser.add_argument("-o", "--output", default="stacked.zip")
    parser.add_argument("--count", type=int, default=60_000)
    given = parser.parse_args()
    if given.what == "make":
        make(given.data, given.output, given.count)
    else:
        count(given.data, given.model)


if __name__ == "__main__":
    main()
