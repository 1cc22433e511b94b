"""Train the feature extractor of `imggen evaluate` on labeled data sets. A script for developers:

python -m imggen.engine.evaluation.train_extractor --data mnist.zip --data cifar10-jpeg.zip --weight 1 --weight 3 \\
        --mirror cifar10-jpeg.zip -o features.safetensors
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from imggen.data.dataset import DataOptions, Dataset, Order, load_dataset, mirror
from imggen.engine.device import configure_device, find_device
from imggen.io.checkpoint import write_checkpoint
from imggen.io.pixels import to_float
from imggen.metrics.features import INPUT_SIDE, Extractor, to_rgb
from imggen.reporting import Silent

MAX_SHIFT = 3  # pixels
MAX_IMAGES_FOR_STATISTICS = 20_000


def load_batch(dataset: Dataset, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, 32, 32) in [-1, 1] and labels (B,)."""
    levels, labels = dataset.batch(indices)
    return to_rgb(to_float(levels)).contiguous(memory_format=torch.channels_last), labels


def shift_randomly(images: Tensor) -> Tensor:
    """Each image moved by up to three pixels, its border repeated."""
    padded = pad(images, (MAX_SHIFT,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * MAX_SHIFT + 1, (len(images), 2)).tolist()
    return torch.stack([padded[i, :, y : y + INPUT_SIDE, x : x + INPUT_SIDE] for i, (y, x) in enumerate(corners)])


def accuracy(extractor: Extractor, dataset: Dataset, first_class: int) -> float:
    """The fraction of a data set that is classified correctly, among the classes of that set."""
    correct = 0
    for start in range(0, len(dataset), 500):
        images, labels = load_batch(dataset, np.arange(start, min(start + 500, len(dataset))))
        logits = extractor.classify(images)[:, first_class : first_class + len(dataset.classes)]
        correct += int((logits.argmax(1) == labels).sum())
    return correct / len(dataset)


def train(
    sources: list[str], weights: list[int], mirrored: list[str], images: int, batch: int, seed: int
) -> tuple[Extractor, list[float]]:
    """Train on `images` images; each batch holds the sets in proportion to `weights`. Returns held-out accuracies.

    SGD with a one-cycle learning rate (arXiv 1708.07120), label smoothing and random shifts. Only the sets named in
    `mirrored` are mirrored: a mirrored digit is another symbol.
    """
    train_set, test_set = DataOptions(size=INPUT_SIDE), DataOptions(size=INPUT_SIDE, split="test")
    sets = [load_dataset(source, train_set, max_size=INPUT_SIDE, reporter=Silent()) for source in sources]
    held_out = [load_dataset(source, test_set, max_size=INPUT_SIDE, reporter=Silent()) for source in sources]
    offsets = np.cumsum([0, *(len(dataset.classes) for dataset in sets)]).tolist()
    counts = [batch * weight // sum(weights) for weight in weights]
    torch.manual_seed(seed)
    extractor = Extractor(offsets[-1]).to(memory_format=torch.channels_last)
    steps = images // sum(counts)
    sgd = torch.optim.SGD(extractor.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.2, total_steps=steps, pct_start=0.2)
    orders = [Order(len(dataset), seed + k) for k, dataset in enumerate(sets)]
    start = time.monotonic()
    for step in range(steps):
        parts = []
        for source, dataset, order, count, offset in zip(sources, sets, orders, counts, offsets[:-1], strict=True):
            images_of_set, labels = load_batch(dataset, order.indices(step * count, count))
            if source in mirrored:
                images_of_set = mirror(images_of_set)
            parts.append((shift_randomly(images_of_set), labels + offset))
        x = torch.cat([images_of_set for images_of_set, _ in parts]).contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(extractor.classify(x), torch.cat([y for _, y in parts]), label_smoothing=0.1)
        sgd.zero_grad()
        torch.autograd.backward(loss)
        sgd.step()
        cycle.step()
        if step % 100 == 99:
            speed = step * sum(counts) / (time.monotonic() - start)
            sys.stderr.write(f"{step / steps:4.0%}  {speed:.0f} images/s  loss {loss.item():.3f}\n")
    extractor.eval().requires_grad_(False)
    set_statistics(extractor, sets)
    extractor.half().float()  # rounded as in the file
    return extractor, [accuracy(extractor, held, first) for held, first in zip(held_out, offsets[:-1], strict=True)]


def set_statistics(extractor: Extractor, sets: list[Dataset]) -> None:
    """Set mean and scale of every feature over the training images, with as many images of each set."""
    features = []
    for dataset in sets:
        rows = np.linspace(0, len(dataset) - 1, min(MAX_IMAGES_FOR_STATISTICS, len(dataset))).astype(np.int64)
        for part in np.array_split(rows, max(1, len(rows) // 500)):
            features.append(extractor.raw(load_batch(dataset, part)[0]))
    everything = torch.cat(features).double()
    extractor.mean.copy_(everything.mean(0))
    extractor.scale.copy_(everything.std(0).clamp(min=1e-3))


def main() -> None:
    """Parse the arguments, train, and write the extractor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", required=True, help="a labeled data set with train and test; repeatable"
    )
    parser.add_argument("--weight", action="append", type=int, help="of each set in a batch, in the same order")
    parser.add_argument("--mirror", action="append", default=[], help="a set whose images may be mirrored")
    parser.add_argument("--images", type=int, default=470_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    configure_device(find_device("cpu"))
    start = time.monotonic()
    weights = given.weight or [1] * len(given.data)
    extractor, accuracies = train(given.data, weights, given.mirror, given.images, given.batch, given.seed)
    names = [Path(source).name for source in given.data]
    document = {
        "labels": extractor.logits.out_features,
        "provenance": {
            "data": names,
            "held_out_accuracy": dict(zip(names, accuracies, strict=True)),
            "images": given.images,
            "seed": given.seed,
            "seconds": round(time.monotonic() - start),
        },
    }
    half = {name: t.half() if t.is_floating_point() else t for name, t in extractor.state_dict().items()}
    write_checkpoint(given.output, half, document, kind="features")
    for name, fraction in zip(names, accuracies, strict=True):
        sys.stderr.write(f"{name}: {fraction:.2%} of the held-out set\n")
    sys.stdout.write(f"{given.output}\n")


if __name__ == "__main__":
    main()
