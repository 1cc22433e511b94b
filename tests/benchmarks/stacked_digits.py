"""The stacked-digits test of lost modes (Metz et al. 2017, arXiv 1611.02163; Lin et al. 2018, arXiv 1712.04086).

    python tests/benchmarks/stacked_digits.py make --data mnist.zip -o stacked.zip
    imggen train gan --data stacked.zip --minutes 12 -o runs/stacked
    python tests/benchmarks/stacked_digits.py count --data mnist.zip --model runs/stacked

A picture is three digits, one in each colour channel: 1,000 modes. 26,000 drawn pictures are told apart channel by
channel, by linear discriminants on the features that `imggen evaluate` compares in; how often those are right about
held-out digits is printed first. KL is of the modes' shares from equal ones, in nats; 26,000 pictures of the data
themselves stand beside.
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

COUNT = 26_000
DIGITS = 10


def digits(data: str, split: str) -> Dataset:
    """One split of the digits, 32 px, grey, with classes."""
    return load_dataset(data, DataOptions(size=32, channels=1, split=split), max_size=32, reporter=Silent())


def stacked(dataset: Dataset, count: int, seed: int) -> tuple[ImageArray, Tensor]:
    """Pictures (N, 32, 32, 3) of three random digits each, and their modes (N,), 0 to 999."""
    rows = np.random.default_rng(seed).integers(len(dataset), size=(count, 3))
    pictures = np.stack([np.asarray(dataset.images)[rows[:, channel], :, :, 0] for channel in range(3)], axis=3)
    labels = torch.from_numpy(dataset.labels[rows])
    return pictures, labels @ torch.tensor([100, 10, 1])


def make(data: str, output: str, count: int) -> None:
    """Write the pictures into a zip."""
    pictures, _ = stacked(digits(data, "train"), count, 0)
    with zipfile.ZipFile(output, "x") as archive:
        for index, picture in enumerate(pictures):
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "PNG")
            archive.writestr(f"{index:06d}.png", buffer.getvalue())


def tell(features: Features, discriminant: Discriminant, pictures: ImageArray) -> Tensor:
    """The mode (N,) of each picture (N, 32, 32, 3)."""
    found = [
        (features.extract(pictures[..., channel : channel + 1]).double() @ discriminant.weights + discriminant.bias)
        for channel in range(3)
    ]
    return torch.stack([logits.argmax(1) for logits in found], 1) @ torch.tensor([100, 10, 1])


def summary(name: str, modes: Tensor) -> str:
    """How many of the modes there are, and how far their shares are from equal ones."""
    counts = torch.bincount(modes, minlength=DIGITS**3).double()
    shares = counts / counts.sum()
    kl = float((shares * (shares * DIGITS**3).clamp(min=1e-12).log()).sum())
    return f"{name}: {int((counts > 0).sum())} of {DIGITS**3} modes, KL {kl:.4f} nats, of {len(modes):,} pictures"


def count(data: str, model: str) -> None:
    """Print how many modes the model draws."""
    features = load_features(None, torch.device("cpu"))
    train, test = digits(data, "train"), digits(data, "test")
    known = features.extract(np.asarray(train.images))
    discriminant = Discriminant(known, torch.from_numpy(np.asarray(train.labels)), DIGITS)
    right = discriminant.correct(features.extract(np.asarray(test.images)), torch.from_numpy(np.asarray(test.labels)))
    print(f"held-out digits told right: {float(right.mean()):.2%}")
    backend = load_backend(model).backend.for_inference()
    drawn = list(
        sample_batches(backend, map(SampleSpec, range(COUNT)), lambda _, part: tell(features, discriminant, part))
    )
    print(summary("model", torch.cat(drawn)))
    pictures, modes = stacked(train, COUNT, 1)
    print(summary("data, as told", tell(features, discriminant, pictures)))
    print(summary("data, in truth", modes))


def main() -> None:
    """Make the pictures, or count the modes."""
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
